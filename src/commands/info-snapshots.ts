// The internal snapshots of an image as `qemu-img info` shows them, in JSON and in columns.

import type { DiskInfo } from '../disk/index.ts';
import { printable } from './output.ts';
import { formatSize } from './size.ts';

type Snapshot = DiskInfo['snapshots'][number];

const NANOSECONDS = 1e9;

export function snapshotJson(snapshot: Snapshot): Record<string, unknown> {
  const { id, name, vmStateSize, dateSeconds, dateNanoseconds, vmClockNanoseconds, icount } = snapshot;
  return {
    ...(icount === null ? {} : { icount }),
    'vm-clock-nsec': vmClockNanoseconds % NANOSECONDS,
    name,
    'date-sec': dateSeconds,
    'date-nsec': dateNanoseconds,
    'vm-clock-sec': Math.floor(vmClockNanoseconds / NANOSECONDS),
    id,
    'vm-state-size': vmStateSize,
  };
}

export function snapshotLines(snapshots: readonly Snapshot[]): string[] {
  return [
    columns('ID', 'TAG', 'VM SIZE', 'DATE', 'VM CLOCK', 'ICOUNT'),
    ...snapshots.map(({ id, name, vmStateSize, dateSeconds, vmClockNanoseconds, icount }) =>
      columns(
        printable(id),
        printable(name),
        formatSize(vmStateSize),
        localDate(dateSeconds),
        clock(vmClockNanoseconds),
        icount === null ? '' : String(icount),
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

function localDate(seconds: number): string {
  const date = new Date(seconds * 1000);
  const two = (value: number): string => String(value).padStart(2, '0');
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

function clock(nanoseconds: number): string {
  const milliseconds = Math.floor(nanoseconds / 1e6);
  const two = (value: number): string => String(Math.floor(value)).padStart(2, '0');
  const seconds = milliseconds / 1000;
  const rest = String(milliseconds % 1000).padStart(3, '0');
  return `${two(seconds / 3600)}:${two((seconds / 60) % 60)}:${two(seconds % 60)}.${rest}`;
}
