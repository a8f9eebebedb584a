#!/usr/bin/env node
// npm run rules: proves that each rule of the engine has a test that guards it. For every line of RULES one rule is switched
// off in a copy of the sources, the copy is built, and its test must fail; the unchanged copy must pass first. Prints a line
// for each and "N rules, N guarded" last.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseOptions } from './parse-options.mjs';

const options = parseOptions(
  'npm run rules -- [--list] [--only PATTERN]\n' +
    '  --list          says which rules there are, with the tests that guard them\n' +
    '  --only PATTERN  those whose name and hazard match a regular expression: "R8|R10"',
  { only: { type: 'string', default: '' }, list: { type: 'boolean', default: false } },
);
const ROOT = fileURLToPath(new URL('..', import.meta.url));
const EVERY_POINT = 'test/interleave/every-point-';
const POWER_CUT = 'test/model/power-cut-';
const VIRTUAL_DISK = 'test/conformance/virtual-disk-';

/** rule, what goes wrong without it, where it stands, what the source says and what it says when switched off, its test. */
const RULES = [
  {
    rule: 'R1',
    hazard: 'two threads change tables at the same time',
    file: 'src/concurrency/mutex.ts',
    from: 'if (Atomics.compareExchange(words, index, FREE, this.own) !== FREE) this.lockSlowly();',
    to: 'void words; void index;',
    test: EVERY_POINT,
    only: 'qcow2 two clusters of one new L2 table',
  },
  {
    rule: 'R2',
    hazard: 'QED: what was mapped before a wait is used after it',
    file: 'src/format/mapped/runs/reserved-runs.ts',
    from: 'if (reservations.acquireBytes(offset, part, clusterSize, mode)) return run;',
    to: 'const before = { ...run }; reservations.acquireBytes(offset, part, clusterSize, mode); return before;',
    test: EVERY_POINT,
    only: 'QED a write into the middle',
  },
  {
    rule: 'R2',
    hazard: 'qcow2: what was mapped before a wait is used after it',
    file: 'src/format/mapped/runs/reserved-runs.ts',
    from: 'if (reservations.acquireBytes(offset, part, clusterSize, mode)) return run;',
    to: 'const before = { ...run }; reservations.acquireBytes(offset, part, clusterSize, mode); return before;',
    test: EVERY_POINT,
    only: 'qcow2 a write into the middle',
  },
  {
    rule: 'R3',
    hazard: 'two writes into one unallocated cluster lose one of them',
    file: 'src/concurrency/reservations.ts',
    from: 'if (!slots.overlaps(other, start, end)) continue;',
    to: 'continue;',
    test: EVERY_POINT,
    only: 'QED a write into the middle',
  },
  {
    rule: 'R3',
    hazard: 'waiters give their place up and wait for each other for ever',
    file: 'src/concurrency/reservations.ts',
    from: 'if (!slots.waits(other) || slots.ticketOf(other) < ticket) return true;',
    to: 'return true;',
    test: 'test/interleave/two-writers.test.ts',
    only: '',
  },
  {
    rule: 'R4',
    hazard: 'copy-on-read runs beside a guest write to its cluster',
    file: 'src/format/mapped/copy-up.ts',
    from: 'reservations.acquireBytes(offset, wanted, clusterSize, EXCLUSIVE);',
    to: 'reservations.acquire(0, 0, EXCLUSIVE);',
    test: 'test/interleave/copy-on-read.test.ts',
    only: 'QED over a backing file a read that copies: a write',
  },
  {
    rule: 'R4',
    hazard: 'copy-on-read trusts what it looked up before it waited',
    file: 'src/format/mapped/copy-up.ts',
    from: "return status === 'unallocated' ? this.copyReserved(offset, part) : part;",
    to: 'void status; return this.copyReserved(offset, part);',
    test: 'test/interleave/copy-on-read.test.ts',
    only: 'two reads of one cluster copy it once',
  },
  {
    rule: 'R5',
    hazard: 'qcow2: a cluster is reused before the removal of its reference is durable',
    file: 'src/format/qcow2/flush.ts',
    from: "tracker.sync();\n    failpoint('link');",
    to: "this.carryOut(released);\n    tracker.sync();\n    failpoint('link');",
    also: { from: 'this.carryOut(released);\n    linkInOrder', to: 'linkInOrder' },
    test: POWER_CUT,
    only: 'power cuts on qcow2$|power cuts on qcow2 lose',
  },
  {
    rule: 'R5',
    hazard: 'qcow2: a counter goes down while the table without the reference is not linked',
    file: 'src/format/qcow2/flush.ts',
    from: 'if (released > 0) tracker.sync();',
    to: '',
    test: 'test/model/power-cut-qcow2-features.test.ts',
    only: 'a discard in an L2 table',
  },
  {
    rule: 'R5',
    hazard: 'qcow2: a counter that falls to 0 in a stretch that nobody has read counts as free before it is punched',
    file: 'src/format/qcow2/flush.ts',
    from: 'unread.read(after(start, done), part);',
    to: 'void unread;',
    test: 'test/unit/format/qcow2/unread-free.test.ts',
    only: 'not free before it is punched',
  },
  {
    rule: 'R10',
    hazard: 'a mark of a clean close counts for a file that has changed since',
    file: 'src/host/file-version.ts',
    from: "(['device', 'inode', 'size', 'modified', 'changed'] as const)",
    to: "(['device', 'inode', 'size', 'modified'] as const)",
    test: 'test/unit/disk/closed-marks.test.ts',
    only: 'its old times again',
  },
  {
    rule: 'R5',
    hazard: 'qcow2: a late punch-hole lands in a cluster that is in use again',
    file: 'src/format/qcow2/flush.ts',
    from: 'for (const { start, end } of unused) {\n      try {',
    to: 'for (const run of unused) this.markFree(run.start, run.end);\n    for (const { start, end } of unused) {\n      try {',
    also: { from: '      this.markFree(start, end);\n    }', to: '    }' },
    test: EVERY_POINT,
    only: 'qcow2 new clusters while',
  },
  {
    rule: 'R5',
    hazard: 'qcow2: a cluster that only a snapshot refers to any more counts as free',
    file: 'src/format/qcow2/flush.ts',
    from: 'if (uses === 0) addToRuns(unused, after(start, done + i));',
    to: 'if (uses <= 1) addToRuns(unused, after(start, done + i));',
    test: 'test/interleave/snapshots.test.ts',
    only: 'a snapshot of .qcow2. is read as it was',
  },
  {
    rule: 'R2',
    hazard: 'qcow2: a reader of a snapshot takes the links that wait for the disk',
    file: 'src/format/qcow2/snapshots/snapshot-image.ts',
    from: 'const pending = new PendingLinks(createPendingLinksState(1));',
    to: 'const { pending } = parts as unknown as { pending: PendingLinks };',
    test: 'test/interleave/snapshots.test.ts',
    only: 'a snapshot of .qcow2. is read as it was',
  },
  {
    rule: 'R5',
    hazard: 'QED: a cluster is reused before the removal of its entry is durable and its hole punched',
    file: 'src/format/mapped/free-clusters.ts',
    from: 'this.leaveUsed(start, count, FREED);',
    to: 'this.leaveUsed(start, count, FREE);',
    test: POWER_CUT,
    only: 'power cuts on qed',
  },
  {
    rule: 'R5',
    hazard: 'a discard takes a cluster away from a write in flight',
    file: 'src/concurrency/reservations.ts',
    from: 'this.acquire(start, end, EXCLUSIVE);',
    to: 'this.acquire(start, end, SHARED);',
    test: EVERY_POINT,
    only: 'qcow2 a discard of the cluster that is written',
  },
  {
    rule: 'R5',
    hazard: 'qcow2: what a killed process removed counts as free before that is durable',
    file: 'src/format/qcow2/check/check.ts',
    from: 'this.file.sync();\n    this.storeCounters((_cluster',
    to: 'this.storeCounters((_cluster',
    test: 'test/unit/format/qcow2/killed-leaks.test.ts',
    only: 'has no counter lowered before',
  },
  {
    rule: 'R6',
    hazard: 'QED: a link is durable before the data that it exposes',
    file: 'src/format/mapped/allocating-write.ts',
    from: 'if (below !== null && (overData !== null || newClusters.waits?.(after(host, bytes)) === true)) {',
    to: 'if (below === undefined) {',
    test: POWER_CUT,
    only: 'power cuts on qed',
  },
  {
    rule: 'R6',
    hazard: 'qcow2: links are written before counters and data are durable',
    file: 'src/format/qcow2/flush.ts',
    from: "tracker.sync();\n    failpoint('link');",
    to: "failpoint('link');",
    test: POWER_CUT,
    only: 'power cuts on qcow2$|power cuts on qcow2 lose',
  },
  {
    rule: 'R7',
    hazard: 'QED: metadata changes before the dirty bit is durable',
    file: 'src/format/mapped/dirty-mark.ts',
    from: 'if (!isNeeded) return;\n    tracker.sync();',
    to: 'if (!isNeeded) return;',
    test: POWER_CUT,
    only: 'power cuts on qed',
  },
  {
    rule: 'R7',
    hazard: 'QED: the dirty bit is cleared before what it covers is durable',
    file: 'src/format/mapped/dirty-mark.ts',
    from: 'if (epoch === null) return;\n      tracker.sync();',
    to: 'if (epoch === null) return;',
    test: POWER_CUT,
    only: 'power cuts on qed',
  },
  {
    rule: 'R7',
    hazard: 'the dirty bit is cleared although metadata has changed since the fdatasync',
    file: 'src/format/mapped/dirty-mark.ts',
    from: 'Atomics.load(words, this.epochWord) !== epoch || !isQuiet()',
    to: '!isQuiet()',
    test: 'test/unit/format/mapped/dirty-mark.test.ts',
    only: 'stays set when metadata changes',
  },
  {
    rule: 'R7',
    hazard: 'QED: a repair is believed that the host has not kept',
    file: 'src/format/qed/open.ts',
    from: 'if (isSound(repaired.report)) return repaired;',
    to: 'if (repaired !== undefined) return repaired;',
    test: 'test/unit/format/unkept-repair.test.ts',
    only: 'qed.*is refused for writing and stays marked',
  },
  {
    rule: 'R8',
    hazard: 'memory changes although the write of the entry failed',
    file: 'src/format/qcow2/table.ts',
    from: 'this.tracker.writeMetadata(failpoint, () =>',
    to: 'this.slices.written(offset, bytes);\n    this.tracker.writeMetadata(failpoint, () =>',
    test: VIRTUAL_DISK,
    only: 'qcow2.*an error in a change|qcow2.*full host',
  },
  {
    rule: 'R8',
    hazard: 'the image goes on after a metadata write failed',
    file: 'src/format/write-tracker.ts',
    from: 'if (!untouched) this.fail(error);',
    to: 'void untouched;',
    test: 'test/interleave/script.test.ts',
    only: 'a metadata step that fails',
  },
  {
    rule: 'R9',
    hazard: 'a flush covers what another thread put off meanwhile',
    file: 'src/format/write-tracker.ts',
    from: 'Atomics.store(this.words, FLUSHED, written);',
    to: 'Atomics.store(this.words, FLUSHED, Atomics.load(this.words, WRITTEN));',
    test: 'test/interleave/flush-race.test.ts',
    only: '',
  },
  {
    rule: 'R10',
    hazard: 'QED: an entry that leads out of the file is followed',
    file: 'src/format/qed/mapping.ts',
    from: 'if (entry + bytes > this.numbers.fileEnd) return false;',
    to: '',
    test: 'test/hostile/qed-tables.test.ts',
    only: 'is opened read-only, where a read of it fails',
  },
  {
    rule: 'R10',
    hazard: 'qcow2: an L2 entry that leads out of the file is followed',
    file: 'src/format/qcow2/state.ts',
    from: 'if (!(offset + bytes <= values[FILE_END]!)) return false;',
    to: '',
    test: 'test/hostile/qcow2-tables.test.ts',
    only: 'an L2 entry that leads',
  },
  {
    rule: 'R10',
    hazard: 'qcow2: an L2 entry that leads into the middle of a cluster is followed',
    file: 'src/format/qcow2/mapping.ts',
    from: 'return remainder(offset, clusterSize) === 0 && this.numbers.isPlace(offset, clusterSize);',
    to: 'return this.numbers.isPlace(offset, clusterSize);',
    test: 'test/hostile/qcow2-tables.test.ts',
    only: 'an L2 entry that leads',
  },
  {
    rule: 'R1',
    hazard: 'VDI: two threads change the map at the same time',
    file: 'src/concurrency/mutex.ts',
    from: 'if (Atomics.compareExchange(words, index, FREE, this.own) !== FREE) this.lockSlowly();',
    to: 'void words; void index;',
    test: EVERY_POINT,
    only: 'VDI idle work during an allocating write',
  },
  {
    rule: 'R1',
    hazard: 'VHD: two threads change the table at the same time',
    file: 'src/concurrency/mutex.ts',
    from: 'if (Atomics.compareExchange(words, index, FREE, this.own) !== FREE) this.lockSlowly();',
    to: 'void words; void index;',
    test: EVERY_POINT,
    only: 'vpc a write into the first of two',
  },
  {
    rule: 'R1',
    hazard: 'QED: two threads change tables at the same time',
    file: 'src/concurrency/mutex.ts',
    from: 'if (Atomics.compareExchange(words, index, FREE, this.own) !== FREE) this.lockSlowly();',
    to: 'void words; void index;',
    test: EVERY_POINT,
    only: 'QED a write into the first of two',
  },
  {
    rule: 'R1',
    hazard: 'qcow: two threads change tables at the same time',
    file: 'src/concurrency/mutex.ts',
    from: 'if (Atomics.compareExchange(words, index, FREE, this.own) !== FREE) this.lockSlowly();',
    to: 'void words; void index;',
    test: EVERY_POINT,
    only: 'version 1 of qcow a write into the first of two',
  },
  {
    rule: 'R1',
    hazard: 'VMDK: two threads change tables at the same time',
    file: 'src/concurrency/mutex.ts',
    from: 'if (Atomics.compareExchange(words, index, FREE, this.own) !== FREE) this.lockSlowly();',
    to: 'void words; void index;',
    test: EVERY_POINT,
    only: 'VMDK a write into the first of two',
  },
  {
    rule: 'R1',
    hazard: 'Parallels: two threads change the table at the same time',
    file: 'src/concurrency/mutex.ts',
    from: 'if (Atomics.compareExchange(words, index, FREE, this.own) !== FREE) this.lockSlowly();',
    to: 'void words; void index;',
    test: EVERY_POINT,
    only: 'Parallels a write into the first of two',
  },
  {
    rule: 'R1',
    hazard: 'VHDX: two threads change the BAT at the same time',
    file: 'src/concurrency/mutex.ts',
    from: 'if (Atomics.compareExchange(words, index, FREE, this.own) !== FREE) this.lockSlowly();',
    to: 'void words; void index;',
    test: 'test/interleave/vhdx.test.ts',
    only: 'VHDX a write into the next block',
  },
  {
    rule: 'R3',
    hazard: 'VDI: two writes into one unallocated block lose one of them',
    file: 'src/concurrency/reservations.ts',
    from: 'if (!slots.overlaps(other, start, end)) continue;',
    to: 'continue;',
    test: EVERY_POINT,
    only: 'VDI a write into the middle',
  },
  {
    rule: 'R3',
    hazard: 'VHD: two writes into one unallocated block lose one of them',
    file: 'src/concurrency/reservations.ts',
    from: 'if (!slots.overlaps(other, start, end)) continue;',
    to: 'continue;',
    test: EVERY_POINT,
    only: 'vpc a write into the middle',
  },
  {
    rule: 'R4',
    hazard: 'VDI: copy-on-read runs beside a guest write to its block',
    file: 'src/format/mapped/copy-up.ts',
    from: 'reservations.acquireBytes(offset, wanted, clusterSize, EXCLUSIVE);',
    to: 'reservations.acquire(0, 0, EXCLUSIVE);',
    test: 'test/interleave/copy-on-read.test.ts',
    only: 'VDI over a backing file a read that copies: a write',
  },
  {
    rule: 'R4',
    hazard: 'VHD: copy-on-read runs beside a guest write to its block',
    file: 'src/format/mapped/copy-up.ts',
    from: 'reservations.acquireBytes(offset, wanted, clusterSize, EXCLUSIVE);',
    to: 'reservations.acquire(0, 0, EXCLUSIVE);',
    test: 'test/interleave/copy-on-read.test.ts',
    only: 'vpc over a backing file a read that copies: a write',
  },
  {
    rule: 'R5',
    hazard: 'VDI: a discard takes a block away from a write in flight',
    file: 'src/concurrency/reservations.ts',
    from: 'this.acquire(start, end, EXCLUSIVE);',
    to: 'this.acquire(start, end, SHARED);',
    test: EVERY_POINT,
    only: 'VDI a discard of the cluster that is written',
  },
  {
    rule: 'R5',
    hazard: 'VHD: a discard takes a block away from a write in flight',
    file: 'src/concurrency/reservations.ts',
    from: 'this.acquire(start, end, EXCLUSIVE);',
    to: 'this.acquire(start, end, SHARED);',
    test: EVERY_POINT,
    only: 'vpc a discard of the cluster that is written',
  },
  {
    rule: 'R9',
    hazard: 'VDI: a flush covers what another thread put off meanwhile',
    file: 'src/format/write-tracker.ts',
    from: 'Atomics.store(this.words, FLUSHED, written);',
    to: 'Atomics.store(this.words, FLUSHED, Atomics.load(this.words, WRITTEN));',
    test: 'test/interleave/flush-race.test.ts',
    only: 'of .vdi., a write held back',
  },
  {
    rule: 'R9',
    hazard: 'VHD: a flush covers what another thread put off meanwhile',
    file: 'src/format/write-tracker.ts',
    from: 'Atomics.store(this.words, FLUSHED, written);',
    to: 'Atomics.store(this.words, FLUSHED, Atomics.load(this.words, WRITTEN));',
    test: 'test/interleave/flush-race.test.ts',
    only: 'of .vpc., a write held back',
  },
  {
    rule: 'R2',
    hazard: 'VDI: what was mapped before a wait is used after it',
    file: 'src/format/mapped/runs/reserved-runs.ts',
    from: 'if (reservations.acquireBytes(offset, part, clusterSize, mode)) return run;',
    to: 'const before = { ...run }; reservations.acquireBytes(offset, part, clusterSize, mode); return before;',
    test: EVERY_POINT,
    only: 'VDI a write into the middle',
  },
  {
    rule: 'R2',
    hazard: 'VHD: what was mapped before a wait is used after it',
    file: 'src/format/mapped/runs/reserved-runs.ts',
    from: 'if (reservations.acquireBytes(offset, part, clusterSize, mode)) return run;',
    to: 'const before = { ...run }; reservations.acquireBytes(offset, part, clusterSize, mode); return before;',
    test: EVERY_POINT,
    only: 'vpc a write into the middle',
  },
  {
    rule: 'R5',
    hazard: 'VDI: a block is reused before the removal of its entry is durable and its hole punched',
    file: 'src/format/vdi/allocate.ts',
    from: 'this.free.markFreed(hostCluster(index), count);',
    to: 'this.free.markFree(hostCluster(index), count);',
    test: POWER_CUT,
    only: 'power cuts on vdi lose',
  },
  {
    rule: 'R5',
    hazard: 'VDI: an open takes back what a killed process removed before that is durable',
    file: 'src/format/vdi/open.ts',
    from: 'file.sync();\n  if (size < length && end > 0)',
    to: 'if (size < length && end > 0)',
    test: 'test/unit/format/vdi/order.test.ts',
    only: 'takes back what a killed process removed',
  },
  {
    rule: 'R5',
    hazard: 'VHD: a block is reused before the removal of its entry is durable and its hole punched',
    file: 'src/format/vpc/allocate.ts',
    from: 'this.free.markFreed(this.geometry.placeOf(host), 1);',
    to: 'this.free.markFree(this.geometry.placeOf(host), 1);',
    test: POWER_CUT,
    only: 'power cuts on vpc lose',
  },
  {
    rule: 'R6',
    hazard: 'VDI: an entry is durable before the data that covers the parent',
    file: 'src/format/vdi/flush.ts',
    from: "tracker.sync();\n      failpoint('link');",
    to: "failpoint('link');",
    test: POWER_CUT,
    only: 'power cuts on vdi with a backing file',
  },
  {
    rule: 'R6',
    hazard: 'VDI: a block over a parent is linked at once',
    file: 'src/format/mapped/allocating-write.ts',
    from: 'this.hold(below.pending, first, host, count);\n        linked = count;\n      }\n      while (linked < count) linked += this.link(first, host, linked, count);\n    } catch',
    to: 'void this.hold;\n      }\n      while (linked < count) linked += this.link(first, host, linked, count);\n    } catch',
    test: POWER_CUT,
    only: 'power cuts on vdi with a backing file',
  },
  {
    rule: 'R6',
    hazard: 'VDI: an entry leads to a copy that is not durable when a close moves blocks into gaps',
    file: 'src/format/vdi/compact.ts',
    from: '    tracker.sync();\n  } catch',
    to: '    void tracker;\n  } catch',
    test: POWER_CUT,
    only: 'power cuts on vdi lose',
  },
  {
    rule: 'R6',
    hazard: 'VHD: a bit is durable before the data that covers the parent',
    file: 'src/format/vpc/flush.ts',
    from: "tracker.sync();\n      failpoint('link');",
    to: "failpoint('link');",
    test: POWER_CUT,
    only: 'power cuts on vpc with a backing file',
  },
  {
    rule: 'R6',
    hazard: 'VHD: a block over a parent is linked with all its bits',
    file: 'src/format/vpc/allocating-write.ts',
    from: 'this.writeBitmap(host, isOverZeros ? this.ones : this.none);',
    to: 'this.writeBitmap(host, this.ones);',
    test: POWER_CUT,
    only: 'power cuts on vpc with a backing file',
  },
  {
    rule: 'R6',
    hazard: 'VHD: a flush sets bits whose data came after its fdatasync',
    file: 'src/format/vpc/bitmaps.ts',
    from: 'waiting.allocated >= control[FROZEN]!',
    to: 'waiting.allocated >= 0',
    test: 'test/unit/format/vpc/sectors.test.ts',
    only: 'waits for the next one',
  },
  {
    rule: 'R7',
    hazard: 'VDI: uuidModify, by which children know their parent, is not durable before the first change',
    file: 'src/format/mapped/dirty-mark.ts',
    from: 'if (!isNeeded) return;\n    tracker.sync();',
    to: 'if (!isNeeded) return;',
    test: 'test/unit/format/vdi/order.test.ts',
    only: 'changes durably before',
  },
  {
    rule: 'R7',
    hazard: 'VDI: a commit gives the parent a name that its child cannot know',
    file: 'src/format/vdi/parent.ts',
    from: 'return next === null ? newUuid() : modifyOf(next);',
    to: 'return next === null ? newUuid() : newUuid();',
    test: 'test/model/power-cut-commit.test.ts',
    only: 'VDI into VDI',
  },
  {
    rule: 'R7',
    hazard: 'VDI: a child is written before it has stored what a commit that was broken off has called its parent',
    file: 'src/disk/chain-opener.ts',
    from: 'image.adoptParent?.(now);',
    to: 'void image;',
    test: 'test/unit/disk/known-parents.test.ts',
    only: 'leaves an overlay that can be written',
  },
  {
    rule: 'R7',
    hazard: 'VMDK: a commit gives the parent a CID that its child cannot know',
    file: 'src/format/vmdk/commits.ts',
    from: 'return next === null ? fresh : { ...fresh, cid: next };',
    to: 'return next === null ? fresh : { ...fresh };',
    test: 'test/model/power-cut-commit.test.ts',
    only: 'VMDK into VMDK',
  },
  {
    rule: 'R7',
    hazard: 'VMDK: a child is written before it has stored what a commit that was broken off has called its parent',
    file: 'src/disk/chain-opener.ts',
    from: 'image.adoptParent?.(now);',
    to: 'void image;',
    test: 'test/interop/vmdk-merge.test.ts',
    only: 'is committed, and goes on as its child',
  },
  {
    rule: 'R7',
    hazard: 'VMDK: lines of a descriptor move without a record of both texts',
    file: 'src/format/vmdk/descriptor/place.ts',
    from: 'if (isTornApart(old, next, place, writer.isWhole === true)) {',
    to: 'if (isTornApart(old, next, place, writer.isWhole === true) && old === next) {',
    test: 'test/unit/format/vmdk/set-backing.test.ts',
    only: 'has the old parent or the new one',
  },
  {
    rule: 'R10',
    hazard: 'VMDK: a record that a crash has left in part counts',
    file: 'src/format/vmdk/descriptor/pending.ts',
    from: 'if (!hashOf(record).equals(record.subarray(HASH_AT, HASH_AT + HASH_BYTES))) continue;',
    to: 'void hashOf(record).equals(record.subarray(HASH_AT, HASH_AT + HASH_BYTES));',
    test: 'test/unit/format/vmdk/set-backing.test.ts',
    only: 'has the old parent or the new one',
  },
  {
    rule: 'R7',
    hazard: 'qcow: the header leads to a name that is not durable',
    file: 'src/format/qcow/set-backing.ts',
    from: 'file.write(name, 0, name.length, hostOffset(at));\n    file.sync();',
    to: 'file.write(name, 0, name.length, hostOffset(at));',
    test: 'test/unit/format/qcow/set-backing.test.ts',
    only: 'whenever the power goes',
  },
  {
    rule: 'R7',
    hazard: 'VDI: an image over another parent has the name by which its children know it',
    file: 'src/format/vdi/set-backing.ts',
    from: '    [UUID_MODIFY_AT, newUuid()],\n',
    to: '    [UUID_MODIFY_AT, header.uuidModify],\n',
    test: 'test/unit/disk/known-parents.test.ts',
    only: 'with -u changes the header alone',
  },
  {
    rule: 'R7',
    hazard: 'VDI: an entry leads to a block that the durable count does not cover',
    file: 'src/format/vdi/allocated-count.ts',
    from: 'tracker.sync();\n    lock.run(() => numbers.noteReserved(blocks));',
    to: 'lock.run(() => numbers.noteReserved(blocks));',
    test: POWER_CUT,
    only: 'power cuts on vdi lose',
  },
  {
    rule: 'R7',
    hazard: 'VDI: the file is cut before the lower count is durable',
    file: 'src/format/vdi/allocated-count.ts',
    from: 'tracker.sync();\n    file.truncate(length);',
    to: 'file.truncate(length);',
    test: 'test/unit/format/vdi/order.test.ts',
    only: 'is exact after a close',
  },
  {
    rule: 'R7',
    hazard: 'VHD: blocks are used before the longer file and the footer at its end are durable',
    file: 'src/format/vpc/allocate.ts',
    from: 'tracker.sync();\n    // the room that there was',
    to: '// the room that there was',
    test: POWER_CUT,
    only: 'power cuts on vpc lose',
  },
  {
    rule: 'R7',
    hazard: 'VHD: the file is cut before the footer at its new end is durable',
    file: 'src/format/vpc/allocate.ts',
    from: 'tracker.sync();\n    file.truncate(wanted);',
    to: 'file.truncate(wanted);',
    test: 'test/unit/format/vpc/order.test.ts',
    only: 'a close puts the footer',
  },
  {
    rule: 'R7',
    hazard: 'VHD: both footers are written anew without a fdatasync in between',
    file: 'src/format/vpc/resize.ts',
    from: 'hostOffset(at)));\n      tracker.sync();',
    to: 'hostOffset(at)));',
    test: 'test/unit/format/vpc/order.test.ts',
    only: 'a power cut while a disk becomes',
  },
  {
    rule: 'R8',
    hazard: 'VDI: memory changes although the write of the entry failed',
    file: 'src/format/vdi/table.ts',
    from: 'this.file.write(bytes, 0, bytes.length, start);',
    to: 'this.slices.written(start, bytes);\n    this.file.write(bytes, 0, bytes.length, start);',
    test: VIRTUAL_DISK,
    only: 'vdi.*an error in a change|vdi.*full host',
  },
  {
    rule: 'R8',
    hazard: 'VHD: memory changes although the write of the entry failed',
    file: 'src/format/vpc/table.ts',
    from: 'this.file.write(this.scratch, 0, bytes, start);',
    to: 'this.slices.written(start, this.scratch.subarray(0, bytes));\n    this.file.write(this.scratch, 0, bytes, start);',
    test: VIRTUAL_DISK,
    only: 'vpc.*an error in a change|vpc.*full host',
  },
  {
    rule: 'R10',
    hazard: 'VDI: an entry that leads out of the file is followed',
    file: 'src/format/vdi/mapping.ts',
    from: 'return entry < this.parts.numbers.end;',
    to: 'return true;',
    test: 'test/unit/format/vdi/damaged-maps.test.ts',
    only: 'a read that meets it is an error',
  },
  {
    rule: 'R10',
    hazard: 'VHD: an entry that leads out of the file, or into its metadata, is followed',
    file: 'src/format/vpc/mapping.ts',
    from: 'if (this.isPlace(host)) return host;',
    to: 'if (host >= 0) return host;',
    test: 'test/unit/format/vpc/footer.test.ts',
    only: 'is an error of the read that meets it',
  },
  {
    rule: 'R5',
    hazard: 'VMDK: a grain is reused before the removal of its entry is durable and its hole punched',
    file: 'src/format/vmdk/sparse/allocate.ts',
    from: 'free.markFreed(geometry.placeOf(host), count);',
    to: 'free.markFree(geometry.placeOf(host), count);',
    test: POWER_CUT,
    only: 'power cuts on vmdk lose',
  },
  {
    rule: 'R5',
    hazard: 'Parallels: a cluster is reused before the removal of its entry is durable and its hole punched',
    file: 'src/format/mapped/space/cluster-allocator.ts',
    from: 'this.free.markFreed(this.geometry.clusterOf(offset), count);',
    to: 'this.free.markFree(this.geometry.clusterOf(offset), count);',
    test: POWER_CUT,
    only: 'power cuts on parallels lose',
  },
  {
    rule: 'R5',
    hazard: 'VHDX: a block is reused before the removal of its entry is durable and its hole punched',
    file: 'src/format/mapped/space/cluster-allocator.ts',
    from: 'this.free.markFreed(this.geometry.clusterOf(offset), count);',
    to: 'this.free.markFree(this.geometry.clusterOf(offset), count);',
    test: POWER_CUT,
    only: 'power cuts on vhdx lose',
  },
  {
    rule: 'R6',
    hazard: 'VMDK: an entry is durable before the data that covers the parent',
    file: 'src/format/vmdk/sparse/flush.ts',
    from: "tracker.sync();\n  failpoint('link');",
    to: "failpoint('link');",
    test: POWER_CUT,
    only: 'power cuts on vmdk with a backing file',
  },
  {
    rule: 'R6',
    hazard: 'VHDX: bits are in the log before the data of their sectors is durable',
    file: 'src/format/vhdx/flush.ts',
    from: 'tracker.sync();\n        placeIfRoom(parts, before);',
    to: 'void before;',
    test: POWER_CUT,
    only: 'power cuts on vhdx with a backing file',
  },
  {
    rule: 'R6',
    hazard: 'VHDX: a flush logs bits whose data came after its fdatasync',
    file: 'src/format/vhdx/waiting-bits.ts',
    from: 'waiting.find(word, count)',
    to: 'waiting.find(word)',
    test: 'test/unit/format/vhdx/children.test.ts',
    only: 'bits that come beside the fdatasync',
  },
  {
    rule: 'R6',
    hazard: 'VHDX: a block over a parent begins with bits of its earlier life',
    file: 'src/format/vhdx/link.ts',
    from: 'return isClear ? patches : [...patches, ...this.noBits(block, bitmap)];',
    to: 'return patches.slice(0, isClear ? 1 : 1);',
    test: 'test/unit/format/vhdx/children.test.ts',
    only: 'no bits of its earlier life',
  },
  {
    rule: 'R6',
    hazard: 'VHDX: a block is fully present before all of its bits have durable data',
    file: 'src/format/vhdx/mapping.ts',
    from: 'bitmaps.endOfStored(bitmap, first, end, true) === end',
    to: 'bitmaps.endOf(bitmap, first, end, true) === end',
    test: 'test/unit/format/vhdx/children.test.ts',
    only: 'whose rest comes beside the fdatasync',
  },
  {
    rule: 'R7',
    hazard: 'VHDX: the region tables name a BAT whose entries are not durable',
    file: 'src/format/vhdx/move-bat.ts',
    from: 'tracker.sync();\n      lock.run(() => use(parts, place, bytes));',
    to: 'lock.run(() => use(parts, place, bytes));',
    test: 'test/unit/format/vhdx/writing.test.ts',
    only: 'is copied, durably, before the region tables',
  },
  {
    rule: 'R7',
    hazard: 'VMDK: the CID, by which children know their parent, does not change before the first change',
    file: 'src/format/vmdk/session.ts',
    from: 'this.rewrite((text) => withIdentity(text, this.parts.identity));',
    to: 'void withIdentity;',
    test: 'test/model/power-cut-vmdk.test.ts',
    only: 'power cuts on vmdk',
  },
  {
    rule: 'R7',
    hazard: 'Parallels: metadata changes before the field that says so is durable',
    file: 'src/format/parallels/plain/in-use.ts',
    from: 'this.numbers.noteChange(steadyMs());\n    this.mark.set();',
    to: 'this.numbers.noteChange(steadyMs());',
    test: 'test/unit/format/parallels/plain.test.ts',
    only: 'is marked as in use',
  },
  {
    rule: 'R7',
    hazard: 'VHDX: a sector of metadata is in its place before its log entry is durable',
    file: 'src/format/vhdx/log/unplaced-sectors.ts',
    from: 'if (changed > sequence || this.get(slot, PLACED) === changed) continue;',
    to: 'if (this.get(slot, PLACED) === changed) continue;',
    test: 'test/unit/format/vhdx/writing.test.ts',
    only: 'beside the fdatasync of a flush',
  },
  {
    rule: 'R7',
    hazard: 'VHDX: the newest durable entry of the log is overwritten',
    file: 'src/format/vhdx/log/writer.ts',
    from: 'return used + bytes + LOG_SECTOR_BYTES <= logLength;',
    to: 'return used + bytes >= 0;',
    test: 'test/model/power-cut-vhdx-log.test.ts',
    only: 'a log that goes round',
  },
  {
    rule: 'R7',
    hazard: 'VHDX: the headers name a log whose first entry is not durable',
    file: 'src/format/vhdx/session.ts',
    from: 'tracker.sync();\n    this.update({ logGuid });',
    to: 'this.update({ logGuid });',
    test: 'test/unit/format/vhdx/writing.test.ts',
    only: 'of an allocating write: the log is named',
  },
  {
    rule: 'R7',
    hazard: 'VHDX: DataWriteGuid, by which children know their parent, stays when the disk changes',
    file: 'src/format/vhdx/session.ts',
    from: 'least === DATA_WRITE ? { dataWriteGuid, fileWriteGuid } : { fileWriteGuid }',
    to: 'dataWriteGuid === null ? {} : { fileWriteGuid }',
    test: 'test/unit/format/vhdx/writing.test.ts',
    only: 'change once in a session of writing',
  },
  {
    rule: 'R8',
    hazard: 'VHDX: memory changes although the write of the log entry failed',
    file: 'src/format/vhdx/link.ts',
    from: '    logWriter.write(patches);\n',
    to: '    for (const { bytes, offset } of patches) bat.slices.written(offset, bytes);\n    logWriter.write(patches);\n',
    test: VIRTUAL_DISK,
    only: 'vhdx.*an error in a change|vhdx.*full host',
  },
  {
    rule: 'R8',
    hazard: 'Parallels: memory changes although the write of the entry failed',
    file: 'src/format/parallels/plain/table.ts',
    from: 'this.file.write(bytes, 0, bytes.length, start);',
    to: 'this.slices.written(start, bytes);\n    this.file.write(bytes, 0, bytes.length, start);',
    test: VIRTUAL_DISK,
    only: 'parallels.*an error in a change|parallels.*full host',
  },
];

function selected({ rule, hazard }) {
  return new RegExp(options.only).test(`${rule} ${hazard}`);
}

/** Runs a program of the copy. @returns whether it ended well */
async function succeeds(copy, program, args) {
  running = spawn(process.execPath, [program, ...args], {
    cwd: copy,
    stdio: 'ignore',
    env: { ...process.env, SEED: '1', SLICE_CUTS: '3000', SLICE_POINTS: '1' },
  });
  const [status] = await once(running, 'close');
  if (interrupted > 0) process.exit(interrupted);
  return status === 0;
}

/** Runs one test file of the copy. @returns whether it passed */
async function passes(copy, test, only) {
  // a rule that is switched off may leave the compiler something to complain about
  await succeeds(copy, 'node_modules/typescript/bin/tsc', ['-p', 'tsconfig.json']);
  await succeeds(copy, 'scripts/bundle.mjs', []);
  const vitest = ['run', '--config', 'test/vitest.config.ts', '--bail', '1', test];
  return succeeds(copy, 'node_modules/vitest/vitest.mjs', only === '' ? vitest : [...vitest, '-t', only]);
}

function switchOff(copy, { file, from, to, also }) {
  const path = join(copy, file);
  const source = readFileSync(path, 'utf8');
  const changed = source.replace(from, to);
  writeFileSync(path, also === undefined ? changed : changed.replace(also.from, also.to));
  return () => writeFileSync(path, source);
}

const rules = RULES.filter(selected);
for (const { file, from, also } of rules) {
  const source = readFileSync(join(ROOT, file), 'utf8');
  for (const each of also === undefined ? [from] : [from, also.from]) {
    if (!source.includes(each)) throw new Error(`${file} does not say any more: ${each}`);
  }
}
if (options.list) {
  for (const { rule, hazard, test } of rules) console.log(`${rule}  ${hazard}  (${test})`);
  process.exit(0);
}
let running = null;
let interrupted = 0;
for (const [signal, code] of Object.entries({ SIGINT: 130, SIGTERM: 143 })) {
  process.on(signal, () => {
    interrupted = code;
    running?.kill(signal);
  });
}
const copy = mkdtempSync(join(tmpdir(), 'imgfuse-rules-'));
process.on('exit', () => rmSync(copy, { recursive: true, force: true }));
let guarded = 0;
for (const name of ['src', 'test', 'scripts', 'package.json', 'tsconfig.json']) {
  cpSync(join(ROOT, name), join(copy, name), { recursive: true });
}
symlinkSync(join(ROOT, 'node_modules'), join(copy, 'node_modules'));
const healthy = new Set();
for (const each of rules) {
  const key = `${each.test} ${each.only}`;
  if (!healthy.has(key) && !(await passes(copy, each.test, each.only))) {
    console.log(`${each.rule}  ${each.hazard}: its test fails with the rule switched on (${key})`);
    continue;
  }
  healthy.add(key);
  const switchOn = switchOff(copy, each);
  const isGuarded = !(await passes(copy, each.test, each.only));
  switchOn();
  if (isGuarded) guarded++;
  console.log(`${each.rule}  ${each.hazard}: ${isGuarded ? 'guarded' : 'NOT GUARDED'} by ${each.test} ${each.only}`);
}
console.log(`${rules.length} rules, ${guarded} guarded`);
process.exit(guarded === rules.length ? 0 : 1);
