// Partition tables of each kind, with file systems in the partitions, to be damaged in a process of its own
// (fuzz-partitions-child.mjs), which is watched (fuzz-watch.ts).

import { fileURLToPath } from 'node:url';
import { BufferDisk } from './buffer-disk.ts';
import { noFigures, type WatchFigures, watchMutants } from './fuzz-watch.ts';
import { type Entry, gptDisk, MIB, mbrSector, PROTECTIVE, type Slot } from './partition-bytes.ts';
import { SAMPLES, volumeOf } from './volume-bytes.ts';

const CHILD = fileURLToPath(new URL('./fuzz-partitions-child.mjs', import.meta.url));
/** The process, its disks and their mutants take 110 MiB; a table may take an array of a MiB for a moment. */
const MAX_RSS_BYTES = 224 * MIB;

/** A field that can be damaged. */
interface Place {
  readonly at: number;
  readonly width: 1 | 2 | 4 | 8;
}

/** A GPT header, so that its checksums can be made right again after damage. */
interface HeaderPlace {
  readonly at: number;
  readonly sectorSize: number;
}

interface Subject {
  readonly name: string;
  readonly size: number;
  /** what is not zero: offset and base64 */
  readonly chunks: readonly (readonly [number, string])[];
  readonly places: readonly Place[];
  readonly headers: readonly HeaderPlace[];
}

const fields = (start: number, ...widths: (1 | 2 | 4 | 8)[]): Place[] => {
  let at = start;
  return widths.map((width) => {
    const place = { at, width };
    at += width;
    return place;
  });
};

/** The magics in front of a table, disk identifier, slots and signature. */
function sectorPlaces(sector: number): Place[] {
  const slots = [0, 1, 2, 3].flatMap((index) => fields(sector + 446 + index * 16, 1, 1, 2, 1, 1, 2, 4, 4));
  return [
    ...fields(sector, 4, 8),
    ...fields(sector + 11, 2, 1, 2, 1, 2, 2, 1, 2),
    ...fields(sector + 440, 4),
    ...slots,
    ...fields(sector + 510, 2),
  ];
}

function headerPlaces(at: number): Place[] {
  return fields(at, 8, 4, 4, 4, 4, 8, 8, 8, 8, 8, 8, 8, 4, 4, 4);
}

function entryPlaces(at: number, count: number): Place[] {
  return Array.from({ length: count }, (_, index) => fields(at + index * 128, 8, 8, 8, 8, 8, 8, 8, 2, 2, 2, 8)).flat();
}

/** Puts a small file system into a partition, and has every one of its bytes damaged now and then. */
function fill(disk: BufferDisk, start: number, size: number, kind: number): Place[] {
  const { fields: content } = SAMPLES[kind % SAMPLES.length]!;
  const volume = volumeOf(disk.size, content);
  return Object.keys(content).flatMap((key) => {
    const offset = Number(key);
    if (offset + 512 > size) return [];
    const bytes = new Uint8Array(512);
    volume.read(bytes, offset);
    disk.write(start + offset, bytes);
    return [...fields(start + offset, 1, 2, 4, 8), { at: start + offset + 16, width: 4 as const }];
  });
}

function subjectOf(
  name: string,
  disk: BufferDisk,
  places: readonly Place[],
  headers: readonly HeaderPlace[] = [],
): Subject {
  const chunks = disk.chunks().map(([at, bytes]) => [at, Buffer.from(bytes).toString('base64')] as const);
  return { name, size: disk.size, chunks, places: places.filter(({ at, width }) => at + width <= disk.size), headers };
}

function gptSubject(
  name: string,
  sectorSize: number,
  kind: number,
  mbr: readonly (Slot | null)[] = [PROTECTIVE],
): Subject {
  const size = 4 * MIB;
  const first = MIB / sectorSize;
  const entries: (Entry | null)[] = [
    { first, last: first * 2 - 1, name: 'root' },
    null,
    { first: first * 2, last: first * 3 - 1, name: 'ünï 日本' },
  ];
  const disk = gptDisk({ size, sectorSize, entries, mbr });
  const backup = size - sectorSize;
  const array = 2 * sectorSize;
  const places = [
    ...sectorPlaces(0),
    ...headerPlaces(sectorSize),
    ...headerPlaces(backup),
    ...entryPlaces(array, 4),
    ...entryPlaces(array + 127 * 128, 1),
    ...entryPlaces(backup - 128 * 128, 4),
    ...fill(disk, MIB, MIB, kind),
    ...fill(disk, 2 * MIB, MIB, kind + 1),
  ];
  const headers = [sectorSize, backup].map((at) => ({ at, sectorSize }));
  return subjectOf(`GPT, ${name}`, disk, places, headers);
}

function mbrSubject(kind: number): Subject {
  const slots: Slot[] = [
    { boot: 0x80, type: 0x83, start: 2048, size: 2048 },
    { type: 0x82, start: 4096, size: 1000 },
  ];
  const disk = new BufferDisk(4 * MIB).write(0, mbrSector(slots));
  return subjectOf('MBR', disk, [...sectorPlaces(0), ...fill(disk, MIB, MIB, kind)]);
}

function chainSubject(kind: number): Subject {
  const extended = { type: 5, start: 2048, size: 6000 };
  const disk = new BufferDisk(4 * MIB).write(0, mbrSector([{ type: 7, start: 100, size: 1000 }, extended]));
  const records = [0, 2000, 1000, 3000, 4000];
  const places = records.flatMap((record, index) => {
    const next = records[index + 1];
    const link = next === undefined ? null : { type: 5, start: next, size: 1000 };
    const at = (extended.start + record) * 512;
    disk.write(at, mbrSector([{ type: 0x83, start: 63, size: 900 }, link], 0));
    return sectorPlaces(at);
  });
  const start = (extended.start + 63) * 512;
  return subjectOf('MBR with logical partitions', disk, [
    ...sectorPlaces(0),
    ...places,
    ...fill(disk, start, 900 * 512, kind),
  ]);
}

/** No table: each kind of content as a whole disk. */
function contentSubject(kind: number): Subject {
  const { type, fields: content, size = MIB } = SAMPLES[kind]!;
  const disk = volumeOf(size, content);
  const places = Object.keys(content).flatMap((key) => fields(Number(key), 1, 2, 4, 8, 4, 2, 1));
  return subjectOf(`${type} as a whole disk`, disk, [...places, ...sectorPlaces(0)]);
}

function subjects(): Subject[] {
  const kinds = SAMPLES.map((_, kind) => kind);
  return [
    ...kinds.flatMap((kind) => [
      gptSubject('sectors of 512 bytes', 512, kind),
      mbrSubject(kind),
      chainSubject(kind),
      contentSubject(kind),
    ]),
    ...[1024, 2048, 4096].map((sectorSize, kind) => gptSubject(`sectors of ${sectorSize} bytes`, sectorSize, kind)),
    gptSubject('hybrid', 512, 7, [
      { type: 0xee, start: 1, size: 2047 },
      { type: 0x83, start: 2048, size: 2048 },
    ]),
  ];
}

export interface PartitionFigures extends WatchFigures {
  /** had a table after the damage */
  tables: number;
  partitions: number;
  /** volumes in which something was recognized */
  contents: number;
}

export async function fuzzPartitions(
  mutants: number,
  seed: number,
  folder: string,
  first = 0,
): Promise<PartitionFigures> {
  const figures: PartitionFigures = { ...noFigures(), tables: 0, partitions: 0, contents: 0 };
  const program = { path: CHILD, parameters: [] };
  const job = { subjects: subjects(), maxRssBytes: MAX_RSS_BYTES };
  await watchMutants(program, job, { seed, first, mutants }, folder, figures, ({ tables, partitions, contents }) => {
    figures.tables += tables ?? 0;
    figures.partitions += partitions ?? 0;
    figures.contents += contents ?? 0;
  });
  return figures;
}
