// Says in the log what the tree cannot say: who stands in the way of an opening, whose caller learns no more than "Device or
// resource busy", and what is damaged in the partition table.

import type { Refusal } from '../filesystem/index.ts';
import { processName, processStartTime } from '../host/processes.ts';
import type { Log } from './log.ts';

/** losetup tries again and again, for a quarter of a minute. */
const REPEAT_MS = 30_000;
const TOLD_MAX = 100;

export function refusalLog(log: Log): (refusal: Refusal) => void {
  const toldAt = new Map<string, number>();
  return ({ name, holderName, holderWrites, holder }) => {
    const how = holderWrites ? 'open for writing' : 'open for reading';
    const sentence = `${name} cannot be opened, because it shows the same bytes as ${holderName}, which is ${how}${by(holder)}; close that first`;
    const now = performance.now();
    if (now - (toldAt.get(sentence) ?? -REPEAT_MS) < REPEAT_MS) return;
    if (toldAt.size >= TOLD_MAX) toldAt.clear();
    toldAt.set(sentence, now);
    log('warning', sentence);
  };
}

/** A program that rewrites a table has it read many times. */
export function tableLog(log: Log): (sentence: string) => void {
  const told = new Set<string>();
  return (sentence) => {
    if (told.has(sentence)) return;
    if (told.size >= TOLD_MAX) told.clear();
    told.add(sentence);
    log('warning', sentence);
  };
}

/** A process that has ended may have left the file to a loop device, or to a child. */
function by(pid: number): string {
  if (pid === 0) return '';
  if (processStartTime(pid) !== null) return ` by ${processName(pid)} (process ${pid})`;
  return `: process ${pid} opened it and has ended, and a loop device (losetup -a) or another process still has it`;
}
