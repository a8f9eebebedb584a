#!/usr/bin/env bash
# Everything a new machine needs, then every test with REQUIRE_ALL=1, where a test that cannot run is a failure.
#
#   sudo ./scripts/test.sh            all tests
#   sudo ./scripts/test.sh test/unit  those below a folder
#
# Needs Node.js >= 20.19 with npm, a C compiler and Debian's packages. Prints vitest's summary and, last, one line
# "N passed, N failed".
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
  7zip bximage bzip2 cloop-utils dmg2img libvhdi-utils libvmdk-utils python3-vmdkstream qemu-utils qemu-system-common fio fuse3 libfuse2 e2fsprogs xfsprogs btrfs-progs fdisk
  mount man-db attr zstd openssl jq parted gdisk dosfstools exfatprogs ntfs-3g cryptsetup-bin squashfs-tools xorriso lvm2 fuse2fs squashfuse
  xz-utils
)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "+ apt-get install ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

# an installed tree that fits the lock file is kept
if ! npm ls --silent > /dev/null 2>&1; then
  echo '+ npm ci'
  npm ci --no-audit --no-fund
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# each of them keeps one processor busy for most of its time
steps=(build lint typecheck)
echo "+ npm run ${steps[*]}"
for step in "${steps[@]}"; do
  npm run --silent "$step" > "$scratch/$step" 2>&1 &
  echo $! > "$scratch/$step.pid"
done
failed=()
for step in "${steps[@]}"; do
  wait "$(cat "$scratch/$step.pid")" || failed+=("$step")
  cat "$scratch/$step"
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "npm run ${failed[*]} failed"
  exit 1
fi

report=$scratch/report.json
echo '+ vitest'
status=0
REQUIRE_ALL=1 NO_COLOR=1 npx vitest run --config test/vitest.config.ts \
  --reporter=default --reporter=json --outputFile.json="$report" "$@" || status=$?
# a skip is a failure here, whoever skipped
node - "$report" "$status" << 'COUNT'
const { readFileSync } = require('node:fs');
const report = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const skipped = report.numPendingTests + (report.numTodoTests ?? 0);
if (skipped > 0) console.log(`${skipped} tests were skipped, which counts as failed`);
const failed = report.numFailedTests + skipped;
const suites = report.numFailedTestSuites > 0 && failed === 0 ? 1 : 0;
console.log(`${report.numPassedTests} passed, ${failed + suites} failed`);
process.exit(failed + suites > 0 || Number(process.argv[3]) !== 0 ? 1 : 0);
COUNT
