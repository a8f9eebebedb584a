#!/usr/bin/env bash
# CYCLES times: mount, write, plain umount (which runs our helper), and at once qemu-img check (VHD, of which QEMU has no check: imgfuse
# check); QED, qcow2, VDI, VHD and VMDK in turn, umount by an absolute and by a relative path in turn, because umount(8) finds its helper in
# two different ways. Called by
# cycles.test.ts in a mount namespace of its own, so that the helper can stand in /sbin without touching the machine.
# Usage: cycles.sh CLI DIRECTORY CYCLES SEED
set -euo pipefail
cli=$1 directory=$2 cycles=$3
RANDOM=$4
cd "$directory"
mkdir -p upper scratch mnt
mount --make-rprivate /
mount -t tmpfs tmpfs scratch
mkdir scratch/upper scratch/work
mount -t overlay overlay -o "lowerdir=/usr/sbin,upperdir=$directory/scratch/upper,workdir=$directory/scratch/work" /usr/sbin
cat > /usr/sbin/umount.fuse.imgfuse <<HELPER
#!/bin/sh
echo helper >> "$directory/helper.log"
exec "$(command -v node)" "$cli" umount-helper "\$@"
HELPER
chmod 755 /usr/sbin/umount.fuse.imgfuse
formats=(qed qcow2 vdi vpc vmdk vhdx parallels)
for format in "${formats[@]}"; do node "$cli" create -q -f $format disk.$format 256M; done
for ((cycle = 1; cycle <= cycles; cycle++)); do
  format=${formats[cycle % ${#formats[@]}]} mountpoint=mnt
  ((cycle / ${#formats[@]} % 2)) || mountpoint=$directory/mnt
  node "$cli" mount disk.$format mnt
  dd if=/dev/urandom of=mnt/disk.raw bs=64k count=8 seek=$((RANDOM % 4000)) conv=notrunc status=none
  fallocate --punch-hole --offset $((RANDOM * 4096)) --length 300000 mnt/disk.raw
  umount "$mountpoint"
  check=(qemu-img)
  [ $format != vpc ] || check=(node "$cli")
  "${check[@]}" check -q -f $format disk.$format || { echo "cycle $cycle ($format, umount $mountpoint): not clean"; exit 1; }
done
helped=$(wc -l < helper.log)
umount -l /usr/sbin scratch
[ "$helped" -eq "$cycles" ] || { echo "umount has run its helper in $helped of $cycles cycles only"; exit 1; }
echo "$cycles cycles clean"
