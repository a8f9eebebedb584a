// Refcount blocks and refcount tables that are in use before the file shows them (format/qcow2/counters/new-counters.ts): at every point
// of the flush that shows them others allocate, flush and discard, and at every point of a write that needs them.

import { describe } from 'vitest';
import { CLUSTER, type Subject } from './interleaving.ts';
import {
  discard,
  EMPTY,
  flush,
  maintain,
  read,
  type Situation,
  testSituations,
  useTwoThreads,
  write,
} from './situations.ts';

const KIB = 1024;

/** A block counts 64 clusters of 512 bytes; the refcount table of a new image ends at 2 MiB of the file. */
const SUBJECT: Subject = {
  name: 'qcow2 with wide counters',
  format: 'qcow2',
  options: [
    ['cluster_size', '512'],
    ['refcount_bits', '64'],
  ],
  backing: false,
};

/** Just before the table has to grow, and beyond. What was flushed before makes no more points of the flush that is looked at. */
const nearTableEnd = [write(EMPTY, 1600 * KIB, 1), flush, write(EMPTY + 1600 * KIB, 100 * KIB, 1)];
const overTableEnd = [write(EMPTY, 1700 * KIB, 1), flush, write(EMPTY + 1700 * KIB, 400 * KIB, 1)];
/** Where the flush has no lock, and where it shows the refcount table. */
const STEPS = ['flush', 'link', 'link-pause', 'header-update'] as const;
const NEXT = EMPTY + 4096 * KIB;

const situations: readonly Situation[] = [
  {
    name: 'a write that needs refcount blocks beside others that need some and flush',
    first: write(EMPTY, 96 * KIB, 1),
    others: [write(NEXT, 64 * KIB, 2), flush, discard(NEXT, 8 * CLUSTER), flush],
  },
  {
    name: 'a flush that shows refcount blocks beside writes that need more',
    first: flush,
    others: [write(NEXT, 64 * KIB, 2), read(EMPTY), flush, maintain],
    before: [write(EMPTY, 64 * KIB, 1)],
  },
  {
    name: 'a flush that shows refcount blocks beside a write that moves the refcount table',
    first: flush,
    others: [write(NEXT, 400 * KIB, 2), flush],
    before: nearTableEnd,
    only: STEPS,
  },
  {
    name: 'a flush that shows a refcount table beside a write that needs blocks',
    first: flush,
    others: [write(NEXT, 96 * KIB, 2), flush, discard(EMPTY, 8 * CLUSTER), flush],
    before: overTableEnd,
    only: STEPS,
  },
];

const setting = useTwoThreads();
describe(SUBJECT.name, () => testSituations(setting, SUBJECT, situations));
