// Identities that can be made again: image formats take their UUIDs and CIDs from node:crypto, and two runs of a model over equal
// images end in equal images only if these are equal too.

import crypto, { randomBytes, randomInt, randomUUID } from 'node:crypto';
import { syncBuiltinESMExports } from 'node:module';
import { seededRandom } from './random.ts';

const system = { randomBytes, randomInt, randomUUID };
let current: (() => number) | null = null;
let isInstalled = false;

/** While `run` is running, what node:crypto calls random follows from `seed`. */
export function seededCrypto<Result>(seed: number, run: () => Result): Result {
  install();
  const outer = current;
  current = seededRandom(seed);
  try {
    return run();
  } finally {
    current = outer;
  }
}

function install(): void {
  if (isInstalled) return;
  isInstalled = true;
  Object.assign(crypto, {
    randomBytes: (size: number): Buffer => (current === null ? system.randomBytes(size) : bytesOf(current, size)),
    randomInt: (min: number, max: number): number =>
      current === null ? system.randomInt(min, max) : min + Math.floor(current() * (max - min)),
    randomUUID: (): string => (current === null ? system.randomUUID() : uuidOf(bytesOf(current, 16))),
  });
  syncBuiltinESMExports();
}

function bytesOf(random: () => number, size: number): Buffer {
  const bytes = Buffer.alloc(size);
  for (let at = 0; at < size; at++) bytes[at] = random() * 256;
  return bytes;
}

/** Version 4, the usual variant. */
function uuidOf(bytes: Buffer): string {
  bytes[6] = (bytes[6]! & 0x0f) | 0x40;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}
