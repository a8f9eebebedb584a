// The internal snapshots of an image as `qemu-img info` shows them, in JSON and in columns.

import { formatSize } from '../../bytes/format-size.ts';
import { printable } from '../../bytes/printable.ts';
import type { DiskInfo } from '../../disk/index.ts';
import { type ExactNumber, exactNumber } from '../output.ts';

type Snapshot = DiskInfo['snapshots'][number];

export function snapshotJson(snapshot: Snapshot): Record<string, string | number | ExactNumber> {
  const { id, name, vmStateSize, dateSeconds, dateNanoseconds, vmClockSeconds, vmClockNanoseconds, icount } = snapshot;
  return {
    ...(icount === null ? {} : { icount: exactNumber(icount) }),
    'vm-clock-nsec': vmClockNanoseconds,
    name,
    'date-sec': dateSeconds,
    'date-nsec': dateNanoseconds,
    'vm-clock-sec': vmClockSeconds,
    id,
    'vm-state-size': exactNumber(vmStateSize),
  };
}

export function snapshotLines(snapshots: readonly Snapshot[]): string[] {
  return [
    columns('ID', 'TAG', 'VM SIZE', 'DATE', 'VM CLOCK', 'ICOUNT'),
    ...snapshots.map(({ id, name, vmStateSize, dateSeconds, vmClockSeconds, vmClockNanoseconds, icount }) =>
      columns(
        printable(id),
        printable(name),
        formatSize(Number(vmStateSize)),
        localDate(dateSeconds),
        clock(vmClockSeconds, vmClockNanoseconds),
        icount ?? '',
      ),
    ),
  ];
}

function columns(id: string, tag: string, size: string, date: string, vmClock: string, icount: string): string {
  return [
    id.padEnd(9),
    tag.padEnd(16),
    size.padStart(8),
    date.padStart(19),
    vmClock.padStart(12),
    icount.padStart(10),
  ].join(' ');
}

/** In local time, as qemu-img has it. */
export function localDate(seconds: number): string {
  const date = new Date(seconds * 1000);
  const two = (value: number): string => String(value).padStart(2, '0');
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

function clock(seconds: number, nanoseconds: number): string {
  const two = (value: number): string => String(Math.floor(value)).padStart(2, '0');
  const rest = String(Math.floor(nanoseconds / 1e6)).padStart(3, '0');
  return `${two(seconds / 3600)}:${two((seconds / 60) % 60)}:${two(seconds % 60)}.${rest}`;
}
