# What the kernel does with our devices, one function a scenario. Called by init.sh; $scenario says which.
insmod "/usr/lib/uml/modules/$(uname -r)/kernel/drivers/block/nbd.ko"

serve() { # SIZE [ARGUMENT...]: our server, with one export "disk", on port 10809
	[ -e disk.img ] || truncate -s "$1" disk.img
	shift
	nbd-server -e disk=disk.img -l 127.0.0.1:10809 --print-ready "$@" >server.out 2>>server.log &
	server=$!
	until grep -q listening server.out; do sleep 0.01; done
}

attach_reads_and_writes() {
	serve 64M
	nbd-client attach nbd://127.0.0.1/disk /dev/nbd0
	nbd-client list-devices
	dd if=/dev/urandom of=data bs=1M count=8 2>/dev/null
	dd if=data of=/dev/nbd0 bs=1M oflag=direct conv=fsync
	cmp -n 8388608 data disk.img
	nbd-client detach /dev/nbd0
}

"$scenario"
