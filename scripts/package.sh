#!/bin/sh
# Packs the package, installs it into empty prefixes and uses it there (test/mount/package.test.ts): with the Node that runs this,
# and with the newest release of each other line that is named. These are fetched from the registry of npm into a temporary folder.
# Needs root and qemu-img.
set -eu
usage='usage: package.sh [--lines L]
  --lines L   lines of Node, separated by commas (default: 20,22,24)'
lines=20,22,24
cd "$(dirname "$0")/.."
. scripts/options.sh
nodes=$(mktemp -d)
trap 'rm -rf "$nodes"' EXIT
paths=
for line in $(printf '%s' "$lines" | tr , ' '); do
  npm install --silent --no-audit --no-fund --prefix "$nodes/$line" "node-linux-$(node -p process.arch)@$line"
  node=$nodes/$line/node_modules/node-linux-$(node -p process.arch)/bin/node
  "$node" --version
  paths=$paths:$node
done
npm run --silent build
REQUIRE_ALL=1 IMGFUSE_NODES=$paths npx vitest run --config test/vitest.config.ts --no-color test/mount/package.test.ts
