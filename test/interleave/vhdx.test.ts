// VHDX has no blocks below 1 MiB, so it has situations of its own: what its log, its headers and its blocks can do to each other, at
// every point of one request.

import { describe } from 'vitest';
import type { Subject } from './interleaving.ts';
import {
  discard,
  flush,
  maintain,
  preallocate,
  read,
  type Situation,
  testSituations,
  useTwoThreads,
  write,
  zero,
} from './situations.ts';

const BLOCK = 1024 * 1024;
/** The template has data in blocks 0, 4 and 8. */
const [FULL, EMPTY, NEXT] = [0, BLOCK, 2 * BLOCK];

const SUBJECT: Subject = { name: 'VHDX', format: 'vhdx', options: [['block_size', '1M']], backing: false };

const part = write(EMPTY + 1024, 1024, 1);
const situations: readonly Situation[] = [
  { name: 'a write into the same new block', first: part, others: [write(EMPTY + 4096, 1024, 2), flush] },
  { name: 'a write into the next block', first: part, others: [write(NEXT, 512, 2), flush] },
  { name: 'a write across two new blocks', first: write(NEXT - 2048, 4096, 1), others: [part, flush, read(NEXT)] },
  { name: 'flushes during an allocating write', first: part, others: [flush, flush, read(EMPTY + 1024)] },
  { name: 'an allocating write during a flush', first: flush, others: [part, flush], before: [write(NEXT, 512, 3)] },
  { name: 'the keeper during an allocating write', first: part, others: [maintain, flush, maintain] },
  {
    name: 'a discard of the block that is written',
    first: write(FULL + 512, 512, 1),
    others: [discard(FULL, BLOCK), flush],
  },
  {
    name: 'a write into the block that is discarded',
    first: discard(FULL, BLOCK),
    others: [write(FULL, 512, 2), flush],
  },
  { name: 'a new block during a discard', first: discard(FULL, BLOCK), others: [part, flush, flush] },
  {
    // R5: a freed block is used again only when its removal is durable
    name: 'a new block while a freed one settles',
    first: flush,
    others: [part, flush, write(NEXT, 1024, 2), flush, read(FULL)],
    before: [discard(FULL, BLOCK)],
  },
  {
    name: 'a new block in a freed one while that is flushed',
    first: part,
    others: [flush, flush, read(FULL), write(NEXT, 512, 2), flush],
    before: [discard(FULL, BLOCK), flush, flush],
  },
  { name: 'space for a block during a write', first: preallocate(EMPTY, BLOCK), others: [part, flush] },
  {
    name: 'a discard of a block that gets space',
    first: preallocate(EMPTY, BLOCK),
    others: [discard(EMPTY, BLOCK), flush],
  },
  {
    name: 'a write in place as the first change',
    first: write(FULL, 512, 1),
    others: [write(FULL + 512, 512, 2), part, flush],
  },
];

/** In blocks 0, 4 and 8 some sectors are here. */
const CHILD: Subject = {
  name: 'VHDX over a backing file',
  format: 'vhdx',
  options: [['block_size', '1M']],
  backing: true,
};
/** Sectors of a block that is here in parts, which are not. */
const ABSENT = FULL + 600 * 1024;
const absent = write(ABSENT + 1024, 1024, 1);

const situationsOfChild: readonly Situation[] = [
  { name: 'a write into the same new block', first: part, others: [write(EMPTY + 8192, 1024, 2), flush, read(EMPTY)] },
  { name: 'a write into the same page of a new block', first: part, others: [write(EMPTY + 512, 1024, 2), flush] },
  { name: 'a write across two new blocks', first: write(NEXT - 2048, 4096, 1), others: [part, flush, read(NEXT)] },
  { name: 'flushes during a write over the parent', first: part, others: [flush, flush, read(EMPTY + 1024)] },
  {
    name: 'a write over the parent during a flush',
    first: flush,
    others: [part, flush, read(EMPTY)],
    before: [write(NEXT, 512, 3), write(EMPTY + 4096, 512, 4)],
  },
  {
    name: 'a write beside sectors whose bits wait',
    first: absent,
    others: [write(ABSENT + 4096, 512, 2), flush, write(ABSENT, 512, 3), flush],
    before: [write(ABSENT + 8192, 512, 4)],
  },
  {
    name: 'the rest of a block during the flush of its first part',
    first: flush,
    others: [write(EMPTY + BLOCK / 2, BLOCK / 2, 2), flush, read(EMPTY)],
    before: [write(EMPTY, BLOCK / 2, 1)],
  },
  {
    name: 'a discard of the block that is written over the parent',
    first: absent,
    others: [discard(FULL, BLOCK), flush, read(ABSENT)],
  },
  {
    name: 'a discard of a block whose bits are flushed',
    first: flush,
    others: [discard(EMPTY, BLOCK), flush, write(EMPTY + 512, 512, 2), flush],
    before: [part],
  },
  {
    name: 'a write into the block that is discarded over the parent',
    first: discard(EMPTY, BLOCK),
    others: [write(EMPTY, 512, 2), flush],
    before: [part],
  },
  { name: 'zeros in a part of a block', first: zero(ABSENT, 8192), others: [absent, flush, read(ABSENT)] },
  { name: 'the keeper during a write over the parent', first: part, others: [maintain, flush, maintain] },
];

const FRESH: Subject = { ...CHILD, name: 'VHDX over a backing file, new', isEmpty: true };

/** The bitmap of the chunk is not there yet. */
const situationsOfFresh: readonly Situation[] = [
  { name: 'a write into another block', first: part, others: [write(NEXT, 512, 2), flush, read(EMPTY + 1024)] },
  {
    name: 'a discard and a write into another block',
    first: discard(EMPTY, BLOCK),
    others: [write(NEXT, 512, 2), flush],
  },
];

const COPYING: Subject = { ...CHILD, name: 'VHDX that copies what is read', copyOnRead: true };
const copying = read(EMPTY + 1024);

const situationsOfCopying: readonly Situation[] = [
  { name: 'a write to the sector that is read', first: copying, others: [write(EMPTY + 1024, 512, 1), flush] },
  { name: 'a write to another page of the block', first: copying, others: [write(EMPTY + 8704, 512, 1), flush] },
  { name: 'a discard of the block', first: copying, others: [discard(EMPTY, BLOCK), flush, read(EMPTY), flush] },
  { name: 'a write, and a read of its block', first: write(EMPTY + 8192, 512, 1), others: [copying, flush] },
  { name: 'a flush, and a read that copies', first: flush, others: [copying, read(NEXT)], before: [read(NEXT + 512)] },
];

describe('VHDX', () => {
  const setting = useTwoThreads();
  testSituations(setting, SUBJECT, situations);
  testSituations(setting, CHILD, situationsOfChild, 'over a backing file: ');
  testSituations(setting, COPYING, situationsOfCopying, 'a read that copies: ');
  testSituations(setting, FRESH, situationsOfFresh, 'over a backing file, without a bitmap: ');
});
