// A second reader of VHDX, written from [MS-VHDX] alone: it shares no line with src/, is slow, and has images in memory as a whole.
// replayedVhdx() is the log replay of section 2.3, vhdxContent() the disk. Only valid images are given to it.

import { crcOf } from './vhdx-bytes.ts';

interface Entry {
  readonly offset: number;
  readonly bytes: Buffer;
  readonly sequence: bigint;
}

function currentHeader(image: Buffer): Buffer {
  const headers = [0x10000, 0x20000]
    .map((at) => image.subarray(at, at + 4096))
    .filter((header) => header.toString('latin1', 0, 4) === 'head' && hasRightCrc(header));
  headers.sort((one, other) => (one.readBigUInt64LE(8) < other.readBigUInt64LE(8) ? 1 : -1));
  const [current] = headers;
  if (current === undefined) throw new Error('no valid header');
  return current;
}

function hasRightCrc(structure: Buffer): boolean {
  const copy = Buffer.from(structure);
  copy.writeUInt32LE(0, 4);
  return crcOf(copy) === structure.readUInt32LE(4);
}

/** The log entry at `offset`, if it is one of the log with this GUID (2.3.1). */
function entryAt(log: Buffer, offset: number, guid: Buffer): Entry | null {
  if (log.toString('latin1', offset, offset + 4) !== 'loge') return null;
  const ring = Buffer.concat([log.subarray(offset), log.subarray(0, offset)]);
  const length = ring.readUInt32LE(8);
  if (length === 0 || length % 4096 !== 0 || length > log.length) return null;
  const bytes = ring.subarray(0, length);
  const sequence = bytes.readBigUInt64LE(16);
  if (sequence === 0n || Buffer.compare(bytes.subarray(32, 48), guid) !== 0 || !hasRightCrc(bytes)) return null;
  const count = bytes.readUInt32LE(24);
  let dataAt = Math.ceil((64 + 32 * count) / 4096) * 4096;
  if (dataAt > length) return null;
  for (let i = 0; i < count; i++) {
    const at = 64 + 32 * i;
    const signature = bytes.toString('latin1', at, at + 4);
    if (bytes.readBigUInt64LE(at + 24) !== sequence) return null;
    if (signature === 'zero') continue;
    if (signature !== 'desc' || dataAt + 4096 > length) return null;
    if (bytes.toString('latin1', dataAt, dataAt + 4) !== 'data') return null;
    const stored = (BigInt(bytes.readUInt32LE(dataAt + 4)) << 32n) | BigInt(bytes.readUInt32LE(dataAt + 4092));
    if (stored !== sequence) return null;
    dataAt += 4096;
  }
  return dataAt === length ? { offset, bytes, sequence } : null;
}

/** 2.3.2: every sector may be the tail of a sequence; the valid sequence that ends with the highest number is active. */
function activeSequence(log: Buffer, guid: Buffer): Entry[] {
  const entries = new Map<number, Entry | null>();
  const entryOf = (offset: number): Entry | null => {
    const known = entries.get(offset);
    if (known !== undefined) return known;
    const entry = entryAt(log, offset, guid);
    entries.set(offset, entry);
    return entry;
  };
  let active: Entry[] = [];
  for (let tail = 0; tail < log.length; tail += 4096) {
    const sequence: Entry[] = [];
    for (let head = tail; ; ) {
      const entry = entryOf(head);
      if (entry === null || (sequence.length > 0 && entry.sequence !== sequence.at(-1)!.sequence + 1n)) break;
      sequence.push(entry);
      head = (head + entry.bytes.length) % log.length;
    }
    const last = sequence.at(-1);
    if (last === undefined) continue;
    const from = sequence.findIndex(({ offset }) => offset === last.bytes.readUInt32LE(12));
    const isNewer = active.length === 0 || last.sequence > active.at(-1)!.sequence;
    if (from >= 0 && isNewer) active = sequence.slice(from);
  }
  return active;
}

/** The file as it is when its log has been replayed, the log and the headers aside. */
export function replayedVhdx(image: Buffer): Buffer {
  const header = currentHeader(image);
  const guid = header.subarray(48, 64);
  if (guid.every((byte) => byte === 0)) return image;
  const logAt = Number(header.readBigUInt64LE(72));
  const log = image.subarray(logAt, logAt + header.readUInt32LE(68));
  const entries = activeSequence(log, guid);
  if (entries.length === 0) return image;
  const length = Number(entries.at(-1)!.bytes.readBigUInt64LE(56));
  const replayed = Buffer.alloc(Math.max(image.length, length));
  image.copy(replayed);
  for (const { bytes } of entries) {
    const count = bytes.readUInt32LE(24);
    let dataAt = Math.ceil((64 + 32 * count) / 4096) * 4096;
    for (let i = 0; i < count; i++) {
      const at = 64 + 32 * i;
      const to = Number(bytes.readBigUInt64LE(at + 16));
      if (bytes.toString('latin1', at, at + 4) === 'zero') {
        replayed.fill(0, to, to + Number(bytes.readBigUInt64LE(at + 8)));
        continue;
      }
      bytes.copy(replayed, to, dataAt, dataAt + 4096);
      bytes.copy(replayed, to, at + 8, at + 16);
      bytes.copy(replayed, to + 4092, at + 4, at + 8);
      dataAt += 4096;
    }
  }
  return replayed;
}

/** What the disk reads as. @param parent what that of the parent reads as; zeros behind its end */
export function vhdxContent(image: Buffer, parent: Buffer = Buffer.alloc(0)): Buffer {
  const file = replayedVhdx(image);
  const regions = new Map<string, number>();
  const count = file.readUInt32LE(0x30008);
  for (let i = 0; i < count; i++) {
    const at = 0x30010 + 32 * i;
    regions.set(file.toString('hex', at, at + 16), Number(file.readBigUInt64LE(at + 16)));
  }
  const bat = regions.get('6677c22d23f600429d64115e9bfd4a08')!;
  const metadata = regions.get('06a27c8b90479a4bb8fe575f050f886e')!;
  const items = new Map<string, number>();
  for (let i = 0; i < file.readUInt16LE(metadata + 10); i++) {
    const at = metadata + 32 + 32 * i;
    items.set(file.toString('hex', at, at + 16), metadata + file.readUInt32LE(at + 16));
  }
  const blockBytes = file.readUInt32LE(items.get('3767a1ca36fa434db3b633f0aa44e76b')!);
  const size = Number(file.readBigUInt64LE(items.get('2442a52f1bcd7648b2115dbed83bf4b8')!));
  const sectorBytes = file.readUInt32LE(items.get('1dbf41816fa90947ba47f233a8faab5f')!);
  const ratio = (2 ** 23 * sectorBytes) / blockBytes;
  const content = Buffer.alloc(size);
  for (let sector = 0; sector * sectorBytes < size; sector++) {
    const start = sector * sectorBytes;
    const block = Math.floor(start / blockBytes);
    const chunk = Math.floor(block / ratio);
    const entry = file.readBigUInt64LE(bat + 8 * (block + chunk));
    const state = Number(entry & 7n);
    let isHere = state === 6;
    if (state === 7) {
      const bitmap = Number(file.readBigUInt64LE(bat + 8 * ((chunk + 1) * ratio + chunk)) & ~0xfffffn);
      const bit = sector - chunk * 2 ** 23;
      isHere = ((file[bitmap + Math.floor(bit / 8)]! >> (bit % 8)) & 1) === 1;
    }
    const from = Number(entry & ~0xfffffn) + (start % blockBytes);
    if (isHere) file.copy(content, start, from, Math.min(file.length, from + sectorBytes));
    else if ((state === 0 || state === 7) && start < parent.length)
      parent.copy(content, start, start, start + sectorBytes);
  }
  return content;
}
