// `imgfuse info`: shows the facts about an image, with the words and JSON keys of qemu-img info.

import { formatSize } from '../../bytes/format-size.ts';
import { printable } from '../../bytes/printable.ts';
import { type DiskInfo, inspectDisk } from '../../disk/index.ts';
import { EXIT_OK } from '../../errors/exit-codes.ts';
import type { Command } from '../command.ts';
import { FORCE_SHARE, FORMAT, IMAGE_NAME, lockMode, lookAt } from '../image-arguments.ts';
import { answered, complain, type OutputMode, printJson, printLines } from '../output.ts';
import { snapshotJson, snapshotLines } from './info-snapshots.ts';

interface InfoArguments {
  readonly image: string;
  readonly format?: string;
  readonly 'force-share'?: boolean;
  readonly output: OutputMode;
}

export const infoCommand: Command = {
  name: 'info',
  summary: 'Show format, sizes and backing file of an image',
  names: [IMAGE_NAME],
  options: { format: FORMAT, 'force-share': FORCE_SHARE },
  examples: [
    ['imgfuse info disk.qed', ''],
    ['imgfuse info --output=json disk.qed', 'with the keys of qemu-img info'],
  ],
  run: (args: InfoArguments): number => {
    const info = lookAt(() =>
      inspectDisk(args.image, {
        locks: lockMode(args),
        log: complain,
        ...(args.format === undefined ? {} : { format: args.format }),
      }),
    );
    if (args.output === 'json') printJson(infoJson(args.image, info));
    else printLines(infoLines(args.image, info));
    return answered(EXIT_OK);
  },
};

export function infoJson(name: string, info: DiskInfo): Record<string, unknown> {
  return {
    snapshots: info.snapshots.length === 0 ? undefined : info.snapshots.map(snapshotJson),
    'virtual-size': info.virtualSize,
    filename: name,
    'cluster-size': info.clusterSize ?? undefined,
    format: info.format,
    'actual-size': info.actualSize,
    encrypted: info.specific['encrypt'] === undefined ? undefined : true,
    'format-specific': Object.keys(info.specific).length === 0 ? undefined : { type: info.format, data: info.specific },
    'full-backing-filename': info.fullBackingFilename,
    'backing-filename': info.backingFilename,
    'backing-filename-format': info.backingFormat,
    'dirty-flag': info.dirty,
  };
}

export function infoLines(name: string, info: DiskInfo): string[] {
  const lines = [
    `image: ${name}`,
    `file format: ${info.format}`,
    `virtual size: ${formatSize(info.virtualSize)} (${info.virtualSize} bytes)`,
    `disk size: ${formatSize(info.actualSize)}`,
  ];
  if (info.specific['encrypt'] !== undefined) lines.push('encrypted: yes');
  if (info.dirty) lines.push('cleanly shut down: no');
  if (info.clusterSize !== null) lines.push(`cluster_size: ${info.clusterSize}`);
  if (info.backingFilename !== undefined) {
    const full = info.fullBackingFilename;
    const actual = full === undefined || full === info.backingFilename ? '' : ` (actual path: ${full})`;
    lines.push(`backing file: ${info.backingFilename}${actual}`);
  }
  if (info.backingFormat !== undefined) lines.push(`backing file format: ${info.backingFormat}`);
  if (info.snapshots.length > 0) lines.push('Snapshot list:', ...snapshotLines(info.snapshots));
  const specific = Object.entries(info.specific);
  if (specific.length > 0) {
    lines.push('Format specific information:');
    lines.push(...factLines(info.specific, 1));
  }
  return lines.map(printable);
}

/** One fact per line, with the parts of a fact indented, as in qemu-img. */
function factLines(facts: object, depth: number): string[] {
  const indent = '    '.repeat(depth);
  return Object.entries(facts).flatMap(([key, value]) => {
    const name = Array.isArray(facts) ? `[${key}]` : key.replaceAll('-', ' ');
    if (typeof value !== 'object' || value === null) return [`${indent}${name}: ${String(value)}`];
    return [`${indent}${name}:`, ...factLines(value, depth + 1)];
  });
}
