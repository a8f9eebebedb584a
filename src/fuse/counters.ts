// Requests by opcode in shared memory, counted by every worker. 64 bits as two words: the worker whose addition wraps
// the low word carries into the high one, so no count is lost and no bigint is needed.

import { FUSE_OPCODE_LIMIT } from './abi.ts';
import { operationName } from './operations.ts';

export function createCounters(): SharedArrayBuffer {
  return new SharedArrayBuffer(2 * FUSE_OPCODE_LIMIT * Int32Array.BYTES_PER_ELEMENT);
}

/** @param words an Int32Array over what createCounters made */
export function countRequest(words: Int32Array, opcode: number): void {
  if (opcode < FUSE_OPCODE_LIMIT && Atomics.add(words, opcode, 1) === -1) {
    Atomics.add(words, FUSE_OPCODE_LIMIT + opcode, 1);
  }
}

/** Counts by the opcode's name (READ, WRITE, ...); opcodes that never came are left out. */
export function readCounters(counters: SharedArrayBuffer): Record<string, number> {
  const words = new Int32Array(counters);
  const counts: Record<string, number> = {};
  for (let opcode = 0; opcode < FUSE_OPCODE_LIMIT; opcode += 1) {
    const count = Atomics.load(words, FUSE_OPCODE_LIMIT + opcode) * 2 ** 32 + (Atomics.load(words, opcode) >>> 0);
    if (count > 0) counts[operationName(opcode)] = count;
  }
  return counts;
}

/** All of them, modulo 2^32. */
export function totalRequests(counters: SharedArrayBuffer): number {
  return new Int32Array(counters, 0, FUSE_OPCODE_LIMIT).reduce((sum, count) => (sum + count) >>> 0, 0);
}
