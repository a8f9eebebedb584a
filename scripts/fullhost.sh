#!/bin/sh
# A host that runs full again and again under guests: ext4 and XFS on mounts with full=wait, under fio with checksums
# (test/mount/full-host-guests.test.ts). Needs root, fio and the guests' tools. Prints how often each guest's host ran full; a
# guest that sees an error, or has lost something, ends it with exit code 1.
set -eu
usage='usage: fullhost.sh [--runs N]
  --runs N   how often the host of each guest runs full (default: see test/support/slices.ts)'
runs=
cd "$(dirname "$0")/.."
. scripts/options.sh
exec scripts/run-figures.sh 'the host ran full' SLICE=long SLICE_FULLHOSTS="$runs" -- test/mount/full-host-guests.test.ts
