// The other half of fsync-writer.mjs: which contents of which blocks are legal after a crash.

import { closeSync, openSync, readFileSync, readSync } from 'node:fs';

const BLOCK = 4096;

export interface WriterLog {
  /** write numbers of each block, in order */
  readonly writes: ReadonlyMap<number, readonly number[]>;
  readonly lastWrite: number;
  /** every write up to this one was covered by a completed fsync */
  readonly lastFsync: number;
}

export function readWriterLog(path: string): WriterLog {
  const writes = new Map<number, number[]>();
  let lastWrite = 0;
  let lastFsync = 0;
  for (const line of readFileSync(path, 'utf8').split('\n')) {
    const [kind, number, block] = line.split(' ');
    if (kind === 'w') {
      lastWrite = Number(number);
      const list = writes.get(Number(block)) ?? [];
      list.push(lastWrite);
      writes.set(Number(block), list);
    } else if (kind === 'f') {
      lastFsync = Number(number);
    }
  }
  return { writes, lastWrite, lastFsync };
}

/**
 * Compares the file with the log. @param from every write up to this number must be there (or a later one to its block):
 * the last fsync for a power cut, the last acknowledged write for a killed daemon
 * @returns one sentence for each block with an illegal content
 */
export function illegalBlocks(file: string, start: number, log: WriterLog, from: number): string[] {
  const found: string[] = [];
  const descriptor = openSync(file, 'r');
  const buffer = Buffer.alloc(BLOCK);
  for (const [block, numbers] of log.writes) {
    readSync(descriptor, buffer, 0, BLOCK, start + block * BLOCK);
    const value = buffer.readUInt32LE(0);
    for (let at = 4; at < BLOCK; at += 4) {
      if (buffer.readUInt32LE(at) !== value) found.push(`block ${block} is torn at byte ${at}`);
    }
    const kept = numbers.filter((number) => number <= from);
    const legal = [kept.length === 0 ? 0 : kept[kept.length - 1]!, ...numbers.filter((number) => number > from)];
    if (!legal.includes(value)) found.push(`block ${block} holds write ${value}; legal are ${legal.join(', ')}`);
  }
  closeSync(descriptor);
  return found;
}
