/*
 * Loaded into every kernel of the lab (LD_PRELOAD into linux.uml). Does three things:
 *
 * 1. Registers of guests on CPUs with a large xsave state: linux.uml hands ptrace(PTRACE_SETREGSET, NT_X86_XSTATE) a
 *    buffer that is smaller than the state of CPUs with AMX, which the host refuses, and the guest panics. Here the whole
 *    state is read, overlaid with what the caller has, and written back.
 * 2. Disks that fail, are slow, or hang when the lab says so (the control page, see src/control.rs).
 * 3. Disks with a volatile cache: before a block is overwritten, what it held is kept in an undo file; a flush empties
 *    that file. After a power loss the lab puts the old blocks back, and the disk is as it was at its last flush.
 *
 * Disk calls come from one thread of linux.uml with a small stack and without thread-local storage of its own: no
 * allocation, no locks, static buffers, plain system calls.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* ---- 1. registers ---- */

static char whole_state[65536];
/* LAB_WHOLE_STATE in the environment: do so where it is not needed too, to try it. */
static int always_whole;

static long set_whole_state(pid_t pid, const struct iovec *part)
{
	struct iovec whole = { whole_state, sizeof whole_state };

	if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, NT_X86_XSTATE, &whole) < 0)
		return -1;
	memcpy(whole_state, part->iov_base, part->iov_len < whole.iov_len ? part->iov_len : whole.iov_len);
	return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, &whole);
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list words;
	long result, peeked;
	int peeks = request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER;

	va_start(words, request);
	pid_t pid = va_arg(words, pid_t);
	void *addr = va_arg(words, void *);
	void *data = va_arg(words, void *);
	va_end(words);

	/* glibc returns what was peeked; the system call stores it. */
	result = syscall(SYS_ptrace, request, pid, addr, peeks ? (void *)&peeked : data);
	if (result >= 0 && peeks) {
		errno = 0;
		return peeked;
	}
	if (request == PTRACE_SETREGSET && addr == (void *)NT_X86_XSTATE && (result < 0 || always_whole))
		return set_whole_state(pid, data);
	return result;
}

/* ---- 2. and 3. disks ---- */

enum { DISKS = 8, RANGES = 16 };
enum { FAIL_READS = 1, FAIL_WRITES = 2 };

/* One disk in the control page; src/control.rs writes the same layout. */
struct control {
	volatile uint64_t stalled; /* requests wait while this is not zero */
	volatile uint64_t read_delay_us, write_delay_us;
	volatile uint64_t keeps_undo; /* the cache is volatile */
	volatile uint64_t reads, read_bytes, writes, written_bytes, flushes, failed;
	volatile uint64_t fail_flushes;
	uint64_t reserved[5];
	struct {
		volatile uint64_t start, end, what;
	} ranges[RANGES];
};

static struct control nowhere[DISKS], *control = nowhere;
static struct {
	dev_t dev;
	ino_t ino;
	int undo; /* file descriptor */
	off_t undo_end;
} disks[DISKS];
static int disk_count;
static pid_t main_process;
static char old_blocks[65536];

/* LAB_CONTROL=page, LAB_DISKS=image:image:..., each image's undo file is image.undo. */
__attribute__((constructor)) static void learn_from_environment(void)
{
	const char *page = getenv("LAB_CONTROL"), *images = getenv("LAB_DISKS");
	char path[4096];
	struct stat st;
	int fd;

	always_whole = getenv("LAB_WHOLE_STATE") != NULL;
	if (!page || !images)
		return;
	main_process = syscall(SYS_getpid);
	fd = open(page, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		_exit(90);
	control = mmap(NULL, sizeof nowhere, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (control == MAP_FAILED)
		_exit(91);
	while (*images && disk_count < DISKS) {
		size_t length = strcspn(images, ":");
		if (length + sizeof ".undo" > sizeof path)
			_exit(92);
		memcpy(path, images, length);
		path[length] = 0;
		if (stat(path, &st) < 0)
			_exit(93);
		disks[disk_count].dev = st.st_dev;
		disks[disk_count].ino = st.st_ino;
		strcpy(path + length, ".undo");
		/* Emptied: the lab has put back what it held. */
		disks[disk_count].undo = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (disks[disk_count].undo < 0)
			_exit(94);
		disk_count++;
		images += length + (images[length] == ':');
	}
}

/* A disk's number, if this is the I/O thread, which is a process in the host's eyes. What the kernel itself reads of an
 * image when it opens it is no request, and waiting in there would stop the whole node. */
static int disk_of(int fd)
{
	struct stat st;

	if (!disk_count || syscall(SYS_getpid) == main_process || fstat(fd, &st) < 0)
		return -1;
	for (int n = 0; n < disk_count; n++)
		if (disks[n].dev == st.st_dev && disks[n].ino == st.st_ino)
			return n;
	return -1;
}

static void wait_as_told(const struct control *disk, uint64_t delay_us)
{
	struct timespec pause = { delay_us / 1000000, delay_us % 1000000 * 1000 };

	if (delay_us)
		while (nanosleep(&pause, &pause) < 0 && errno == EINTR)
			;
	while (disk->stalled) {
		struct timespec tick = { 0, 1000000 };
		nanosleep(&tick, NULL);
	}
}

static int fails(struct control *disk, off_t offset, size_t length, uint64_t what)
{
	for (int n = 0; n < RANGES; n++)
		if ((disk->ranges[n].what & what) && (uint64_t)offset < disk->ranges[n].end &&
		    (uint64_t)offset + length > disk->ranges[n].start) {
			disk->failed++;
			errno = EIO;
			return 1;
		}
	return 0;
}

/* A record: offset, length, the old blocks. One that is cut short by a power loss belongs to a write not begun. */
static int keep_old(int n, int fd, off_t offset, size_t length)
{
	while (length) {
		size_t part = length < sizeof old_blocks ? length : sizeof old_blocks;
		uint64_t head[2] = { offset, part };
		struct iovec record[2] = { { head, sizeof head }, { old_blocks, part } };
		ssize_t got = syscall(SYS_pread64, fd, old_blocks, part, offset);

		if (got < 0)
			return -1;
		memset(old_blocks + got, 0, part - got);
		if (pwritev(disks[n].undo, record, 2, disks[n].undo_end) != (ssize_t)(sizeof head + part))
			return -1;
		disks[n].undo_end += sizeof head + part;
		offset += part;
		length -= part;
	}
	return 0;
}

ssize_t pread64(int fd, void *buffer, size_t length, off64_t offset)
{
	int n = disk_of(fd);

	if (n >= 0) {
		wait_as_told(&control[n], control[n].read_delay_us);
		if (fails(&control[n], offset, length, FAIL_READS))
			return -1;
		control[n].reads++;
		control[n].read_bytes += length;
	}
	return syscall(SYS_pread64, fd, buffer, length, offset);
}

ssize_t pwrite64(int fd, const void *buffer, size_t length, off64_t offset)
{
	int n = disk_of(fd);

	if (n >= 0) {
		wait_as_told(&control[n], control[n].write_delay_us);
		if (fails(&control[n], offset, length, FAIL_WRITES))
			return -1;
		if (control[n].keeps_undo && keep_old(n, fd, offset, length) < 0)
			return -1;
		control[n].writes++;
		control[n].written_bytes += length;
	}
	return syscall(SYS_pwrite64, fd, buffer, length, offset);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
	int n = disk_of(fd);

	if (n >= 0) {
		wait_as_told(&control[n], control[n].write_delay_us);
		if (fails(&control[n], offset, length, FAIL_WRITES))
			return -1;
		if (control[n].keeps_undo && keep_old(n, fd, offset, length) < 0)
			return -1;
	}
	return syscall(SYS_fallocate, fd, mode, offset, length);
}

/* Images live on a tmpfs: there is nothing else to flush than the cache that we play. */
static int flush_disk(int n)
{
	wait_as_told(&control[n], control[n].write_delay_us);
	if (control[n].fail_flushes) {
		control[n].failed++;
		errno = EIO;
		return -1;
	}
	control[n].flushes++;
	if (disks[n].undo_end) {
		if (ftruncate(disks[n].undo, 0) < 0)
			return -1;
		disks[n].undo_end = 0;
	}
	return 0;
}

int fdatasync(int fd)
{
	int n = disk_of(fd);

	return n < 0 ? syscall(SYS_fdatasync, fd) : flush_disk(n);
}

int fsync(int fd)
{
	int n = disk_of(fd);

	return n < 0 ? syscall(SYS_fsync, fd) : flush_disk(n);
}

/*
 * The ubd driver of Linux 6.1 drops flushes: such a request has no segments, and its I/O thread calls fsync in the loop
 * over segments. So flushes are found where that thread reads the addresses of requests, up to 64 at a time. What a
 * flush must cover was answered before it was sent, hence carried out before this read: none of it is in the same batch.
 */
struct io_thread_req { /* arch/um/drivers/ubd_kern.c */
	void *req;
	int fds[2];
	unsigned long offsets[2];
	unsigned long long offset;
	int sectorsize;
	int error;
	int segments;
};

enum { BATCH = 64 * sizeof(void *), BLK_STS_IOERR = 10 };

ssize_t read(int fd, void *buffer, size_t length)
{
	ssize_t got = syscall(SYS_read, fd, buffer, length);

	if (got <= 0 || length != BATCH || got % sizeof(void *) || !disk_count || syscall(SYS_getpid) == main_process)
		return got;
	for (size_t n = 0; n < got / sizeof(void *); n++) {
		struct io_thread_req *request = ((struct io_thread_req **)buffer)[n];
		int disk;

		if (request->segments == 0 && request->sectorsize == 512 && request->error == 0 &&
		    request->fds[0] == request->fds[1] && (disk = disk_of(request->fds[0])) >= 0 && flush_disk(disk) < 0)
			request->error = BLK_STS_IOERR;
	}
	return got;
}
