#!/bin/sh
# A soak: ext4, xfs and btrfs guests on images of every format that is written, at the same time, with fio verifying what it wrote,
# files that come and go, and fstrim; at the end every fsck, a clean close, qemu-img check, and memory that has not grown
# (test/mount/soak.test.ts). Needs root and Debian's packages of scripts/test.sh. Prints its figures as the last lines.
set -eu
usage='usage: soak.sh [--minutes N]
  --minutes N   how long the guests are under load (default: see test/support/slices.ts)'
minutes=
cd "$(dirname "$0")/.."
. scripts/options.sh
exec scripts/run-figures.sh '^soak' SLICE=long SLICE_SOAK="${minutes:+$((minutes * 60))}" -- test/mount/soak.test.ts
