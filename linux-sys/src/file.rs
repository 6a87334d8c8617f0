//! Positioned reads and writes with per-call flags (preadv2(2), pwritev2(2)) and the sizes of block devices.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Reads at `offset` only what the page cache can give without waiting (`RWF_NOWAIT`).
///
/// `WouldBlock` says that the disk is needed; `Unsupported` that this file cannot tell. Short reads are possible.
pub fn read_cached(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let piece = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let offset = i64::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: `piece` describes `buffer`, which is borrowed exclusively for the whole call; the kernel writes at most
    // its length into it.
    #[allow(unsafe_code)]
    let count = unsafe { libc::preadv2(file.as_raw_fd(), &piece, 1, offset, libc::RWF_NOWAIT) };
    usize::try_from(count).map_err(|_| last_error())
}

/// Writes at `offset` and returns when the data (and what is needed to read it back) is on stable storage
/// (`RWF_DSYNC`: as if the file were open with `O_DSYNC`, for this call alone). Short writes are possible.
pub fn write_durable(file: BorrowedFd<'_>, data: &[u8], offset: u64) -> io::Result<usize> {
    let piece = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    let offset = i64::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: `piece` describes `data`, borrowed for the whole call; pwritev2 only reads from it.
    #[allow(unsafe_code)]
    let count = unsafe { libc::pwritev2(file.as_raw_fd(), &piece, 1, offset, libc::RWF_DSYNC) };
    usize::try_from(count).map_err(|_| last_error())
}

nix::ioctl_read!(
    /// Size of a block device in bytes (`BLKGETSIZE64`, linux/fs.h).
    #[allow(unsafe_code)]
    blkgetsize64,
    0x12,
    114,
    u64
);

/// Size in bytes of the block device behind `file` (`BLKGETSIZE64`).
pub fn block_device_size(file: BorrowedFd<'_>) -> io::Result<u64> {
    let mut size = 0;
    // SAFETY: BLKGETSIZE64 writes one u64 through the pointer, which is valid for the call.
    #[allow(unsafe_code)]
    unsafe { blkgetsize64(file.as_raw_fd(), &mut size) }?;
    Ok(size)
}

fn last_error() -> io::Error {
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::EOPNOTSUPP) {
        return io::Error::from(io::ErrorKind::Unsupported);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_durable_write_is_read_back_from_the_cache() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(write_durable(file.as_fd(), b"netraid", 4096).unwrap(), 7);
        let mut back = [0; 7];
        file.read_exact_at(&mut back, 4096).unwrap();
        assert_eq!(&back, b"netraid");
        match read_cached(file.as_fd(), &mut back, 4096) {
            Ok(count) => assert_eq!(&back[..count], &b"netraid"[..count]),
            Err(error) => {
                assert!(
                    matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Unsupported
                    ),
                    "{error}"
                )
            }
        }
    }

    #[test]
    fn an_offset_beyond_what_the_kernel_takes_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        assert!(read_cached(file.as_fd(), &mut [0; 1], u64::MAX).is_err());
        assert!(write_durable(file.as_fd(), &[0; 1], u64::MAX).is_err());
    }

    #[test]
    fn a_regular_file_has_no_block_device_size() {
        let file = tempfile::tempfile().unwrap();
        assert!(block_device_size(file.as_fd()).is_err());
    }
}
