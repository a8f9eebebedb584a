// `imgfuse map`: what every range of the disk is and where it lies, over the whole backing chain, as qemu-img map.

import { type ChainExtent, openDisk, type VirtualDisk } from '../disk/index.ts';
import { closingAfter } from '../errors/close.ts';
import type { Command } from './command.ts';
import { EXIT_OK } from './exit-codes.ts';
import { ALLOW_BACKING, directories, FORCE_SHARE, FORMAT, IMAGE_NAME, lockMode, lookAt } from './image-arguments.ts';
import { answered, complain, formatTable, type OutputMode, print } from './output.ts';
import { KEY_EXCLUDES, KEY_OPTIONS, type PasswordArguments, passwordOf } from './passwords.ts';

interface MapArguments extends PasswordArguments {
  readonly image: string;
  readonly format?: string;
  readonly 'force-share'?: boolean;
  readonly 'allow-backing'?: readonly string[];
  readonly output: OutputMode;
}

/** One range, with the keys of qemu-img map. */
export interface MapEntry {
  readonly start: number;
  readonly length: number;
  /** which image of the chain says so: 0 is the image itself */
  readonly depth: number;
  readonly present: boolean;
  readonly zero: boolean;
  readonly data: boolean;
  /** where the data lies in that image's file */
  readonly offset?: number;
  readonly filename: string;
}

export const mapCommand: Command = {
  name: 'map',
  summary: 'Show which ranges of the disk hold data, and where it lies',
  names: [IMAGE_NAME],
  options: { format: FORMAT, 'force-share': FORCE_SHARE, 'allow-backing': ALLOW_BACKING, ...KEY_OPTIONS },
  excludes: KEY_EXCLUDES,
  examples: [
    ['imgfuse map disk.qed', 'the ranges with data'],
    ['imgfuse map --output=json disk.qed', 'all ranges, with the keys of qemu-img map'],
  ],
  run: (args: MapArguments): number => {
    const disk = lookAt(() =>
      openDisk(args.image, {
        readOnly: true,
        locks: lockMode(args),
        allowBacking: directories(args['allow-backing']),
        password: passwordOf(args),
        log: complain,
        ...(args.format === undefined ? {} : { format: args.format }),
      }),
    );
    closingAfter(
      () => [disk],
      () => {
        const entries = mapDisk(disk);
        print(args.output === 'json' ? mapJson(entries) : mapText(entries));
      },
    );
    return answered(EXIT_OK);
  },
};

/** Every range of the disk in order; neighbours that say the same are one, because the disk caps the length of an extent. */
export function mapDisk(disk: Pick<VirtualDisk, 'size' | 'extent'>): MapEntry[] {
  const entries: MapEntry[] = [];
  const size = disk.size();
  for (let offset = 0; offset < size; ) {
    const extent = disk.extent(offset);
    const next = mapEntry(extent);
    const last = entries.at(-1);
    if (last !== undefined && continues(last, next))
      entries[entries.length - 1] = { ...last, length: last.length + next.length };
    else entries.push(next);
    offset = extent.start + extent.length;
  }
  return entries;
}

function mapEntry(extent: ChainExtent): MapEntry {
  const { start, length, depth, status, hostOffset, path } = extent;
  const isData = status === 'data';
  return {
    start,
    length,
    depth,
    present: status !== 'unallocated',
    zero: !isData,
    data: isData,
    ...(isData && hostOffset !== undefined ? { offset: hostOffset } : {}),
    filename: path,
  };
}

function continues(last: MapEntry, next: MapEntry): boolean {
  if (last.depth !== next.depth || last.present !== next.present || last.data !== next.data) return false;
  return (last.offset === undefined ? undefined : last.offset + last.length) === next.offset;
}

function mapJson(entries: readonly MapEntry[]): string {
  return `[${entries.map((entry) => JSON.stringify(entry)).join(',\n')}]`;
}

/** The ranges with data, in the columns of qemu-img map; compressed data has no place of its own length: "-". */
export function mapText(entries: readonly MapEntry[]): string {
  const rows = entries
    .filter((entry) => entry.data)
    .map((entry) => [
      hex(entry.start),
      hex(entry.length),
      entry.offset === undefined ? '-' : hex(entry.offset),
      entry.filename,
    ]);
  return formatTable([['Offset         ', 'Length         ', 'Mapped to      ', 'File'], ...rows]);
}

function hex(value: number): string {
  return value === 0 ? '0' : `0x${value.toString(16)}`;
}
