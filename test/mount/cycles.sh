#!/usr/bin/env bash
# CYCLES times: mount, write, plain umount (which runs our helper), and at once qemu-img check. Called by cycles.test.ts in a
# mount namespace of its own, so that the helper can stand in /sbin without touching the machine.
# Usage: cycles.sh CLI DIRECTORY CYCLES
set -euo pipefail
cli=$1 directory=$2 cycles=$3
cd "$directory"
mkdir -p upper scratch mnt
mount --make-rprivate /
mount -t tmpfs tmpfs scratch
mkdir scratch/upper scratch/work
mount -t overlay overlay -o "lowerdir=/usr/sbin,upperdir=$directory/scratch/upper,workdir=$directory/scratch/work" /usr/sbin
cat > /usr/sbin/umount.fuse.imgfuse <<HELPER
#!/bin/sh
exec "$(command -v node)" "$cli" umount-helper "\$@"
HELPER
chmod 755 /usr/sbin/umount.fuse.imgfuse
node "$cli" create -f qed disk.qed 256M > /dev/null
for ((cycle = 1; cycle <= cycles; cycle++)); do
  node "$cli" mount disk.qed mnt
  dd if=/dev/urandom of=mnt/disk.raw bs=64k count=8 seek=$((RANDOM % 4000)) conv=notrunc status=none
  fallocate --punch-hole --offset $((RANDOM * 4096)) --length 300000 mnt/disk.raw
  umount mnt
  qemu-img check -q disk.qed || { echo "cycle $cycle: not clean"; exit 1; }
done
umount -l /usr/sbin scratch
echo "$cycles cycles clean"
