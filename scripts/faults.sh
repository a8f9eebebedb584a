#!/bin/sh
# Failing host operations: random workloads on images in memory, each once for every change of the host file, which fails
# once or from then on, with EIO, ENOSPC or half-way (test/support/faults.ts). Prints how many faults found nothing wrong.
set -eu
usage='usage: faults.sh [--workloads N] [--seed S]
  --workloads N  for each kind of image and of fault (default: see test/support/slices.ts)
  --seed S       the same workloads again (default: another one each time, printed)'
workloads= seed=$(date +%s)
cd "$(dirname "$0")/.."
. scripts/options.sh
exec scripts/run-figures.sh ': [0-9][0-9]* faults,' SLICE=long SLICE_FAULTS="$workloads" SEED="$seed" -- test/model/faults.test.ts
