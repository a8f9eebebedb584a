// `imgfuse map`: prints the status and the place of every range of the disk, over the whole backing chain, as qemu-img map does.

import { printable } from '../../bytes/printable.ts';
import { type ChainExtent, openDisk, type VirtualDisk } from '../../disk/index.ts';
import { closingAfter } from '../../errors/close.ts';
import { EXIT_OK } from '../../errors/exit-codes.ts';
import { type PasswordArguments, passwordOf } from '../../host/passwords.ts';
import type { Command } from '../command.ts';
import {
  ALLOW_BACKING,
  ANY_PARENT,
  directories,
  FORCE_SHARE,
  FORMAT,
  IMAGE_NAME,
  lockMode,
  lookAt,
} from '../image-arguments.ts';
import { answered, complain, type OutputMode, printLines, printPieces } from '../output.ts';
import { KEY_EXCLUDES, KEY_OPTIONS } from '../shared-options.ts';

interface MapArguments extends PasswordArguments {
  readonly image: string;
  readonly format?: string;
  readonly 'force-share'?: boolean;
  readonly 'allow-backing'?: readonly string[];
  readonly 'any-parent'?: boolean;
  readonly output: OutputMode;
}

/** One range, with the keys of qemu-img map. */
export interface MapEntry {
  readonly start: number;
  readonly length: number;
  /** the image of the chain that has the range: 0 is the image itself */
  readonly depth: number;
  readonly present: boolean;
  readonly zero: boolean;
  readonly data: boolean;
  /** host offset of the data in that image's file */
  readonly offset?: number;
  readonly filename: string;
}

export const mapCommand: Command = {
  name: 'map',
  summary: 'Show which ranges of the disk hold data, and where it lies',
  names: [IMAGE_NAME],
  options: {
    format: FORMAT,
    'force-share': FORCE_SHARE,
    'allow-backing': ALLOW_BACKING,
    'any-parent': ANY_PARENT,
    ...KEY_OPTIONS,
  },
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
        anyParent: args['any-parent'],
        password: passwordOf(args),
        log: complain,
        ...(args.format === undefined ? {} : { format: args.format }),
      }),
    );
    closingAfter(
      () => [disk],
      () => {
        const entries = mapDisk(disk);
        if (args.output === 'json') printPieces(mapJson(entries));
        else printLines(mapLines(entries));
      },
    );
    return answered(EXIT_OK);
  },
};

/** Every range of the disk in order. It merges equal neighbours, because the disk limits the length of an extent. */
export function* mapDisk(disk: Pick<VirtualDisk, 'extents'>): Generator<MapEntry, void> {
  let last: GrowingEntry | undefined;
  for (const extent of disk.extents()) {
    const next = mapEntry(extent);
    if (last !== undefined && continues(last, next)) {
      last.length += next.length;
      continue;
    }
    if (last !== undefined) yield last;
    last = next;
  }
  if (last !== undefined) yield last;
}

type GrowingEntry = { -readonly [Key in keyof MapEntry]: MapEntry[Key] };

function mapEntry(extent: ChainExtent): GrowingEntry {
  const { start, length, depth, status, hostOffset, isHole, path } = extent;
  const isData = status === 'data';
  const entry: GrowingEntry = {
    start,
    length,
    depth,
    present: status !== 'unallocated',
    // a preallocated cluster that was never written is data and zero, as in qemu-img
    zero: !isData || isHole === true,
    data: isData,
    filename: path,
  };
  if (hostOffset !== undefined) entry.offset = hostOffset;
  return entry;
}

function continues(last: MapEntry, next: MapEntry): boolean {
  if (last.depth !== next.depth || last.present !== next.present) return false;
  if (last.data !== next.data || last.zero !== next.zero) return false;
  return (last.offset === undefined ? undefined : last.offset + last.length) === next.offset;
}

/** A JSON list with one line per entry. */
export function* mapJson(entries: Iterable<MapEntry>): Generator<string, void> {
  let before = '[';
  let [name, quoted] = ['', '""'];
  for (const { start, length, depth, present, zero, data, offset, filename } of entries) {
    if (filename !== name) [name, quoted] = [filename, JSON.stringify(filename)];
    const place = offset === undefined ? '' : `,"offset":${offset}`;
    yield `${before}{"start":${start},"length":${length},"depth":${depth},"present":${present},"zero":${zero},"data":${data}${place},"filename":${quoted}}`;
    before = ',\n';
  }
  yield before === '[' ? '[]\n' : ']\n';
}

const COLUMN_WIDTH = 15;

/**
 * The ranges with nonzero data, in the columns of qemu-img map. Compressed data has "-" for its offset, because its length in the
 * file is different.
 */
export function* mapLines(entries: Iterable<MapEntry>): Generator<string, void> {
  yield columns('Offset', 'Length', 'Mapped to', 'File');
  for (const { start, length, offset, data, zero, filename } of entries) {
    if (!data || zero) continue;
    yield columns(hex(start), hex(length), offset === undefined ? '-' : hex(offset), printable(filename));
  }
}

function columns(...[start, length, offset, file]: [string, string, string, string]): string {
  return `${[start, length, offset].map((cell) => cell.padEnd(COLUMN_WIDTH)).join('  ')}  ${file}`;
}

function hex(value: number): string {
  return value === 0 ? '0' : `0x${value.toString(16)}`;
}
