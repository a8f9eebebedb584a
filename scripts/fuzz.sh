#!/bin/sh
# Damaged images: valid ones of every kind with fields at the edges of their ranges, pointers crossed, tables cut, compressed
# data broken, through open, info, check, repair, map, reads and writes, in a process that is watched (test/support/fuzz.ts).
# Prints for each format: mutants, distinct ones (equal mutants are judged once), opened for writing, repaired in one pass, crashes, hangs over 2 s of CPU time, findings, peak memory, and which mutants these were.
# Partition tables, and what partitions contain, are damaged in the same way (test/support/fuzz-partitions.ts).
set -eu
usage='usage: fuzz.sh [--format F] [--mutants N] [--seed S] [--first N] [--jobs N]
  --format F   qcow2, qcow, qed, vdi, vmdk, vpc, vhdx, bochs, cloop, dmg, parallels, sparseimage, sparsebundle, asif or raw; partitions for partition tables (default: all)
  --mutants N  for each format (default: see test/support/slices.ts)
  --seed S     the same mutants again (default: others each time, printed)
  --first N    begin with mutant N of the seed, where another run has ended
  --jobs N     processes that run the mutants of a format (default: 1)'
mutants= format= seed=$(date +%s) first=0 jobs=1
cd "$(dirname "$0")/.."
. scripts/options.sh
case $format in
  '') tests='test/hostile/fuzz.test.ts test/hostile/fuzz-partitions.test.ts' ;;
  partitions) tests=test/hostile/fuzz-partitions.test.ts ;;
  *)
    [ -f "src/format/$format/index.ts" ] || refuse "there is no format '$format' here"
    tests=test/hostile/fuzz.test.ts
    ;;
esac
# shellcheck disable=SC2086 # names without spaces
exec scripts/run-figures.sh ': [0-9][0-9]* mutants,' \
  SLICE=long SLICE_FUZZ="$mutants" SLICE_FUZZPARTITIONS="$mutants" FUZZ_FORMAT="$format" FUZZ_FIRST="$first" PROOF_JOBS="$jobs" SEED="$seed" -- $tests
