#!/bin/sh
# For the kernel of a node, which calls this when it wants a module.
exec /sbin/modprobe -d /run/lab/modules "$@"
