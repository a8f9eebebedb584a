// Structured damage of valid images: fields get values at the edges of their ranges, pointers are crossed, tables are cut,
// compressed data is broken. Each kind of place knows what part of the guest's disk it may change, and nothing else may.

const OFFSET_MASK = 0x00fffffffffffe00n;
const COPIED = 1n << 63n;
const COMPRESSED = 1n << 62n;

/**
 * @typedef {object} Place a field that can be damaged
 * @property {number} at offset in the image @property {number} width bytes
 * @property {[start: number, end: number][] | 'all'} affects guest ranges that may read otherwise then, or fail
 * @property {'header' | 'table' | 'pointer' | 'counter' | 'data' | 'other'} kind table: an L1 entry
 */

const nothing = [];

/** Every place of a qcow2 image. */
function qcow2Places(image) {
  const u32 = (at) => image.readUInt32BE(at);
  const u64 = (at) => image.readBigUInt64BE(at);
  const inside = (at, length) => at > 0 && at + length <= image.length;
  const version = u32(4);
  const clusterBits = u32(20);
  const clusterSize = 2 ** clusterBits;
  const size = Number(u64(24));
  const extended = version === 3 && (u64(72) & 16n) !== 0n;
  const hasDataFile = version === 3 && (u64(72) & 4n) !== 0n;
  const entryBytes = extended ? 16 : 8;
  const perTable = clusterSize / entryBytes;
  const places = [];
  const pointers = [0n, BigInt(image.length), BigInt(clusterSize)];

  const header = [
    [4, 4],
    [8, 8],
    [16, 4],
    [20, 4],
    [24, 8],
    [32, 4],
    [36, 4],
    [40, 8],
    [48, 8],
    [56, 4],
    [60, 4],
    [64, 8],
  ];
  if (version === 3) header.push([72, 8], [80, 8], [88, 8], [96, 4], [100, 4], [104, 1]);
  for (const [at, width] of header) places.push({ at, width, affects: 'all', kind: 'header' });
  for (let at = version === 3 ? u32(100) : 72; at < Math.min(clusterSize, 900); at += 4) {
    places.push({ at, width: 4, affects: 'all', kind: 'header' });
  }

  const l1 = Number(u64(40));
  for (let i = 0; i < u32(36) && inside(l1 + i * 8, 8); i++) {
    const table = Number(u64(l1 + i * 8) & OFFSET_MASK);
    const covers = [[i * perTable * clusterSize, (i + 1) * perTable * clusterSize]];
    places.push({ at: l1 + i * 8, width: 8, affects: covers, kind: 'table' });
    if (table === 0 || !inside(table, clusterSize)) continue;
    pointers.push(BigInt(table));
    for (let j = 0; j < perTable; j++) {
      const guest = (i * perTable + j) * clusterSize;
      if (guest >= size) break;
      const at = table + j * entryBytes;
      const affects = [[guest, guest + clusterSize]];
      places.push({ at, width: 8, affects, kind: 'pointer' });
      if (extended) places.push({ at: at + 8, width: 8, affects, kind: 'pointer' });
      const entry = u64(at);
      if ((entry & COMPRESSED) !== 0n) {
        const bits = BigInt(62 - (clusterBits - 8));
        const offset = Number(entry & ((1n << bits) - 1n));
        const sectors = Number((entry & (COMPRESSED - 1n)) >> bits) + 1;
        const length = Math.min(sectors * 512 - (offset % 512), image.length - offset);
        pointers.push(entry);
        // another stream may begin in the same sectors
        for (let byte = offset; byte < offset + length; byte += 1 + Math.floor(length / 12)) {
          places.push({ at: byte, width: 1, affects: 'compressed', kind: 'data' });
        }
      } else if ((entry & OFFSET_MASK) !== 0n && !hasDataFile) pointers.push(entry & OFFSET_MASK);
    }
  }

  const table = Number(u64(48));
  for (let i = 0; i < (u32(56) * clusterSize) / 8 && inside(table + i * 8, 8); i++) {
    const block = Number(u64(table + i * 8) & OFFSET_MASK);
    if (i < 64 || block !== 0) places.push({ at: table + i * 8, width: 8, affects: nothing, kind: 'counter' });
    if (block === 0 || !inside(block, clusterSize)) continue;
    pointers.push(BigInt(block));
    for (let at = 0; at < clusterSize; at += 8) {
      if (at < 512 || u64(block + at) !== 0n)
        places.push({ at: block + at, width: 8, affects: nothing, kind: 'counter' });
    }
  }
  pointers.push(BigInt(l1), BigInt(table));
  const snapshots = Number(u64(64));
  for (let at = snapshots; u32(60) > 0 && at < snapshots + 200 && inside(at, 4); at += 4) {
    if (at === snapshots) pointers.push(u64(at));
    places.push({ at, width: 4, affects: nothing, kind: 'other' });
  }
  return {
    clusterSize,
    size,
    places,
    pointers: [...pointers, ...pointers.map((pointer) => pointer | COPIED)],
    bigEndian: true,
    compressed: compressedRanges(image),
  };
}

/** Every place of a qcow image of version 1. */
function qcowPlaces(image) {
  const u64 = (at) => image.readBigUInt64BE(at);
  const clusterBits = image[32];
  const clusterSize = 2 ** clusterBits;
  const perTable = 2 ** image[33];
  const size = Number(u64(24));
  const places = [];
  for (const [at, width] of [
    [4, 4],
    [8, 8],
    [16, 4],
    [24, 8],
    [32, 1],
    [33, 1],
    [36, 4],
    [40, 8],
    [48, 4],
  ]) {
    places.push({ at, width, affects: 'all', kind: 'header' });
  }
  const l1 = Number(u64(40));
  const pointers = [0n, 1n, BigInt(image.length), BigInt(l1)];
  const covered = perTable * clusterSize;
  for (let i = 0; i * covered < size; i++) {
    const table = Number(u64(l1 + i * 8));
    places.push({ at: l1 + i * 8, width: 8, affects: [[i * covered, (i + 1) * covered]], kind: 'table' });
    if (table === 0) continue;
    pointers.push(BigInt(table));
    for (let j = 0; j < perTable && i * covered + j * clusterSize < size; j++) {
      const guest = i * covered + j * clusterSize;
      const affects = [[guest, guest + clusterSize]];
      const at = table + j * 8;
      const entry = u64(at);
      places.push({ at, width: 8, affects, kind: 'pointer' });
      if (entry !== 0n) pointers.push(entry);
      if ((entry & (1n << 63n)) === 0n) continue;
      const bits = BigInt(63 - clusterBits);
      const offset = Number(entry & ((1n << bits) - 1n));
      const length = Number((entry >> bits) & (BigInt(clusterSize) - 1n));
      for (let byte = offset; byte < Math.min(offset + length, image.length); byte += 1 + Math.floor(length / 12)) {
        places.push({ at: byte, width: 1, affects, kind: 'data' });
      }
    }
  }
  return { clusterSize, size, places, pointers, bigEndian: true };
}

/** Every place of a QED image. */
function qedPlaces(image) {
  const clusterSize = image.readUInt32LE(4);
  const size = Number(image.readBigUInt64LE(48));
  const tableBytes = image.readUInt32LE(8) * clusterSize;
  const places = [];
  for (const [at, width] of [
    [4, 4],
    [8, 4],
    [12, 4],
    [16, 8],
    [24, 8],
    [32, 8],
    [40, 8],
    [48, 8],
    [56, 4],
    [60, 4],
    [64, 4],
  ]) {
    places.push({ at, width, affects: 'all', kind: 'header' });
  }
  const l1 = Number(image.readBigUInt64LE(40));
  const pointers = [0n, 1n, BigInt(image.length), BigInt(l1)];
  const perTable = tableBytes / 8;
  for (let i = 0; i < perTable; i++) {
    const table = Number(image.readBigUInt64LE(l1 + i * 8));
    const covered = perTable * clusterSize;
    if (i * covered >= size) break;
    places.push({ at: l1 + i * 8, width: 8, affects: [[i * covered, (i + 1) * covered]], kind: 'table' });
    if (table === 0) continue;
    pointers.push(BigInt(table));
    for (let j = 0; j < perTable; j++) {
      const guest = i * covered + j * clusterSize;
      if (guest >= size) break;
      places.push({ at: table + j * 8, width: 8, affects: [[guest, guest + clusterSize]], kind: 'pointer' });
      const entry = image.readBigUInt64LE(table + j * 8);
      if (entry > 1n) pointers.push(entry);
    }
  }
  return { clusterSize, size, places, pointers, bigEndian: false };
}

/** Every place of a VDI image. */
function vdiPlaces(image) {
  const u32 = (at) => image.readUInt32LE(at);
  const isVersion0 = u32(68) === 2;
  const [sizeAt, blockAt, countAt, allocatedAt] = isVersion0 ? [352, 360, 364, 368] : [368, 376, 384, 388];
  const clusterSize = u32(blockAt);
  const size = Math.ceil(Number(image.readBigUInt64LE(sizeAt)) / 512) * 512;
  const map = isVersion0 ? 420 : u32(340);
  const header = isVersion0
    ? [64, 68, 72, 76, blockAt, countAt]
    : [64, 68, 72, 76, 80, 340, 344, 360, blockAt, 380, countAt];
  const places = header.map((at) => ({ at, width: 4, affects: 'all', kind: 'header' }));
  places.push({ at: sizeAt, width: 8, affects: 'all', kind: 'header' });
  for (let at = isVersion0 ? 372 : 392; at < (isVersion0 ? 420 : 456); at += 8) {
    places.push({ at, width: 8, affects: 'all', kind: 'header' });
  }
  places.push({ at: allocatedAt, width: 4, affects: [], kind: 'counter' });
  const pointers = [0xffffffffn, 0xfffffffen, 0xfffffffdn, BigInt(u32(countAt)), BigInt(image.length)];
  for (let i = 0; i < u32(countAt); i++) {
    const affects = [[i * clusterSize, (i + 1) * clusterSize]];
    places.push({ at: map + i * 4, width: 4, affects, kind: 'pointer' });
    pointers.push(BigInt(u32(map + i * 4)));
  }
  return { clusterSize, size, places, pointers, bigEndian: false };
}

/** A descriptor alone, a flat extent, or one with a descriptor in itself: its header, its descriptor, and the entries of both copies of its tables. */
function vmdkPlaces(image) {
  const text = (start, end) => {
    const places = [];
    for (let at = start; at + 4 <= end && image[at] !== 0; at += 4)
      places.push({ at, width: 4, affects: 'all', kind: 'header' });
    return places;
  };
  const pointers = [0n, 1n, 2n, 0xffffffffn, BigInt(image.length), BigInt(Math.floor(image.length / 512))];
  const isText = image.toString('latin1', 0, 6) === '# Disk';
  if (!isText && image.toString('latin1', 0, 4) !== 'KDMV') return flatPlaces(image);
  if (isText) {
    return { clusterSize: 512, size: 64 * 1024, places: text(0, image.length), pointers, bigEndian: false };
  }
  const u64 = (at) => Number(image.readBigUInt64LE(at));
  const [size, clusterSize, perTable] = [u64(12) * 512, u64(20) * 512, image.readUInt32LE(44)];
  const places = [];
  for (const at of [4, 8, 44]) places.push({ at, width: 4, affects: 'all', kind: 'header' });
  for (const at of [12, 20, 28, 36, 48, 56, 64]) places.push({ at, width: 8, affects: 'all', kind: 'header' });
  places.push(
    { at: 72, width: 1, affects: 'all', kind: 'header' },
    { at: 77, width: 2, affects: 'all', kind: 'header' },
  );
  places.push(...text(u64(28) * 512, (u64(28) + u64(36)) * 512));
  for (const field of [48, 56]) {
    const directory = u64(field) * 512;
    if (directory === 0 || directory >= image.length) continue;
    for (let i = 0; i * perTable * clusterSize < size; i++) {
      const covers = [[i * perTable * clusterSize, (i + 1) * perTable * clusterSize]];
      places.push({ at: directory + i * 4, width: 4, affects: covers, kind: 'table' });
      const table = image.readUInt32LE(directory + i * 4) * 512;
      for (let j = 0; j < perTable && (i * perTable + j) * clusterSize < size; j++) {
        const guest = (i * perTable + j) * clusterSize;
        places.push({ at: table + j * 4, width: 4, affects: [[guest, guest + clusterSize]], kind: 'pointer' });
        pointers.push(BigInt(image.readUInt32LE(table + j * 4)));
      }
    }
  }
  return { clusterSize, size, places, pointers, bigEndian: false };
}

/** A byte of each sector of a flat extent. */
function flatPlaces(image) {
  const sectors = Array.from({ length: image.length / 512 }, (_, sector) => sector * 512);
  const places = sectors.map((at) => ({ at, width: 1, affects: [[at, at + 1]], kind: 'data' }));
  return { clusterSize: 512, size: image.length, places, pointers: [0n], bigEndian: false };
}

/** Every place of a growing Bochs image. */
function bochsPlaces(image) {
  const u32 = (at) => image.readUInt32LE(at);
  const [headerBytes, entries, bitmapBytes, extentBytes] = [u32(68), u32(72), u32(76), u32(80)];
  const size = Number(image.readBigUInt64LE(88));
  const places = [];
  const words = Array.from({ length: 21 }, (_, i) => i * 4);
  for (const at of words) places.push({ at, width: 4, affects: 'all', kind: 'header' });
  places.push({ at: 88, width: 8, affects: 'all', kind: 'header' });
  const bitmapRoom = Math.ceil(bitmapBytes / 512) * 512;
  const pointers = [0n, 1n, 0xffffffffn];
  for (let i = 0; i * extentBytes < size; i++) {
    const entry = headerBytes + i * 4;
    const start = i * extentBytes;
    places.push({ at: entry, width: 4, affects: [[start, start + extentBytes]], kind: 'table' });
    if (u32(entry) === 0xffffffff) continue;
    pointers.push(BigInt(u32(entry)));
    const bitmap = headerBytes + entries * 4 + u32(entry) * (bitmapRoom + extentBytes);
    for (let byte = 0; byte < extentBytes / 4096; byte++) {
      const first = start + byte * 4096;
      places.push({ at: bitmap + byte, width: 1, affects: [[first, first + 4096]], kind: 'pointer' });
    }
  }
  return { clusterSize: extentBytes, size, places, pointers, bigEndian: false };
}

/** Every place of a Parallels image of one file. */
function parallelsPlaces(image) {
  const u32 = (at) => image.readUInt32LE(at);
  const [cluster, entries] = [u32(28) * 512, u32(32)];
  const size = Number(image.readBigUInt64LE(36)) * 512;
  const places = [0, 4, 8, 12, 16, 28, 32, 44, 48].map((at) => ({ at, width: 4, affects: 'all', kind: 'header' }));
  for (const at of [36, 56]) places.push({ at, width: 8, affects: 'all', kind: 'header' });
  const pointers = [0n, 1n, BigInt(image.length), BigInt(Math.floor(image.length / cluster))];
  for (let i = 0; i < entries; i++) {
    places.push({ at: 64 + i * 4, width: 4, affects: [[i * cluster, (i + 1) * cluster]], kind: 'pointer' });
    pointers.push(BigInt(u32(64 + i * 4)));
  }
  return { clusterSize: cluster, size, places, pointers, bigEndian: false };
}

/** Every place of a sparseimage with one list. A wrong number takes a band away, and nobody knows which. */
function sparseimagePlaces(image) {
  const u32 = (at) => image.readUInt32BE(at);
  const size = Number(image.readBigUInt64BE(28)) * 512;
  const places = [0, 4, 8, 16].map((at) => ({ at, width: 4, affects: 'all', kind: 'header' }));
  for (const at of [20, 28]) places.push({ at, width: 8, affects: 'all', kind: 'header' });
  for (let at = 64; at < 64 + 80 * 4; at += 4) places.push({ at, width: 4, affects: 'all', kind: 'other' });
  return {
    clusterSize: u32(8) * 512,
    size,
    places,
    pointers: [0n, 1n, 61n, 62n, BigInt(image.length)],
    bigEndian: true,
  };
}

/** Every byte of the list of a sparsebundle. */
function sparsebundlePlaces(image) {
  const number = (key) => Number(new RegExp(`<key>${key}</key>\\s*<integer>(\\d+)`).exec(image.toString())[1]);
  const places = Array.from(image, (_, at) => ({ at, width: 1, affects: 'all', kind: 'header' }));
  return {
    clusterSize: number('band-size'),
    size: number('size'),
    places,
    pointers: [0n, 0x30n, 0x3cn],
    bigEndian: false,
  };
}

/** Every place of an ASIF image with one table. The high word of an entry has its status. */
function asifPlaces(image) {
  const [chunk, block] = [image.readUInt32BE(64), image.readUInt16BE(68)];
  const size = Number(image.readBigUInt64BE(48)) * block;
  const places = [0, 64, 68].map((at) => ({ at, width: 4, affects: 'all', kind: 'header' }));
  for (const at of [16, 24, 48, 56, 4096, 4104, 8192, 8200]) {
    places.push({ at, width: 8, affects: 'all', kind: 'header' });
  }
  const pointers = [0n, 1n, BigInt(image.length / chunk)];
  for (let i = 0; i * chunk < size; i++) {
    const at = chunk + i * 8;
    places.push({ at, width: 4, affects: 'all', kind: 'other' });
    places.push({ at: at + 4, width: 4, affects: [[i * chunk, (i + 1) * chunk]], kind: 'pointer' });
    pointers.push(image.readBigUInt64BE(at));
  }
  return { clusterSize: chunk, size, places, pointers, bigEndian: true };
}

/** Every place of a cloop image. */
function cloopPlaces(image) {
  const [clusterSize, blocks] = [image.readUInt32BE(128), image.readUInt32BE(132)];
  const places = [0, 8, 128].map((at) => ({ at, width: 8, affects: 'all', kind: 'header' }));
  places.push({ at: 132, width: 4, affects: 'all', kind: 'header' });
  const start = (i) => Number(image.readBigUInt64BE(136 + i * 8));
  const guest = (i) => [Math.max(0, i * clusterSize), Math.min(blocks, i + 1) * clusterSize];
  const pointers = [0n, 136n, BigInt(image.length)];
  for (let i = 0; i <= blocks; i++) {
    places.push({ at: 136 + i * 8, width: 8, affects: [guest(i - 1), guest(i)], kind: 'table' });
    pointers.push(BigInt(start(i)));
  }
  for (let i = 0; i < blocks; i++) {
    const length = start(i + 1) - start(i);
    for (let at = start(i); at < start(i + 1); at += 1 + Math.floor(length / 12)) {
      places.push({ at, width: 1, affects: [guest(i)], kind: 'data' });
    }
  }
  return { clusterSize, size: blocks * clusterSize, places, pointers, bigEndian: true };
}

/** Every place of a dmg image, those of its block tables as base64 digits of its property list. */
function dmgPlaces(image) {
  const trailer = image.length - 512;
  const u64 = (at) => Number(image.readBigUInt64BE(at));
  const size = u64(trailer + 492) * 512;
  const places = [0, 4, 8, 60].map((at) => ({ at: trailer + at, width: 4, affects: 'all', kind: 'header' }));
  for (const at of [24, 40, 48, 216, 224, 492]) {
    places.push({ at: trailer + at, width: 8, affects: 'all', kind: 'header' });
  }
  const [list, end] = [u64(trailer + 216), u64(trailer + 216) + u64(trailer + 224)];
  // data lies before the list; which run a byte belongs to is not looked up
  for (let at = 0; at < list; at += 1 + Math.floor(list / 300)) {
    places.push({ at, width: 1, affects: 'all', kind: 'data' });
  }
  for (let at = list; at < end; at += 3) places.push({ at, width: 1, affects: 'all', kind: 'table' });
  const pointers = [0n, 1n, BigInt(image.length), BigInt(list), BigInt(end), ...Buffer.from('<>&A/=')].map(BigInt);
  return { clusterSize: 512, size, places, pointers, bigEndian: true };
}

/** Every place of a VHD of any kind. */
function vpcPlaces(image) {
  const u32 = (at) => image.readUInt32BE(at);
  const footerBytes = image.length % 512 === 511 ? 511 : 512;
  const trailer = image.length - footerBytes;
  const places = [];
  const fields = (start, list) => {
    for (const [at, width] of list) places.push({ at: start + at, width, affects: 'all', kind: 'header' });
  };
  const footer = [
    [0, 8],
    [8, 4],
    [12, 4],
    [16, 8],
    [24, 4],
    [28, 4],
    [40, 8],
    [48, 8],
    [56, 4],
    [60, 4],
    [64, 4],
    [68, 8],
    [480, 8],
    [488, 8],
  ];
  fields(trailer, footer);
  const size = Number(image.readBigUInt64BE(trailer + 48));
  const pointers = [0n, 1n, 2n, 3n, 0xffffffffn, BigInt(Math.floor(image.length / 512))];
  if (u32(trailer + 60) === 2) return { clusterSize: 512, size, places, pointers, bigEndian: true };
  fields(0, footer);
  const header = Number(image.readBigUInt64BE(16));
  fields(header, [
    [0, 8],
    [16, 8],
    [24, 4],
    [28, 4],
    [32, 4],
    [36, 4],
    [40, 8],
    [56, 4],
    [64, 8],
  ]);
  for (let at = 576; at < 576 + 48; at += 4) places.push({ at: header + at, width: 4, affects: 'all', kind: 'header' });
  const table = Number(image.readBigUInt64BE(header + 16));
  const blockSize = u32(header + 32);
  for (let i = 0; i * blockSize < size; i++) {
    const start = i * blockSize;
    places.push({ at: table + i * 4, width: 4, affects: [[start, start + blockSize]], kind: 'table' });
    const sector = u32(table + i * 4);
    if (sector === 0xffffffff) continue;
    pointers.push(BigInt(sector));
    for (let byte = 0; byte < blockSize / 4096 && byte < 16; byte++) {
      const first = start + byte * 4096;
      places.push({ at: sector * 512 + byte, width: 1, affects: [[first, first + 4096]], kind: 'pointer' });
    }
  }
  return { clusterSize: blockSize, size, places, pointers, bigEndian: true };
}

/** Every place of a VHDX with one block bitmap at most. Its checksums are set right again, in most mutants. */
function vhdxPlaces(image) {
  const u64 = (at) => Number(image.readBigUInt64LE(at));
  const places = [];
  const headers = (start, list) => {
    for (const [at, width] of list) places.push({ at: start + at, width, affects: 'all', kind: 'header' });
  };
  const sealed = [];
  const seals = (start, length) => sealed.push({ start, end: start + length });
  for (const at of [0x10000, 0x20000]) {
    seals(at, 4096);
    headers(at, [
      [0, 4],
      [8, 8],
      [32, 8],
      [48, 8],
      [56, 8],
      [64, 4],
      [68, 4],
      [72, 8],
    ]);
  }
  for (const at of [0x30000, 0x40000]) {
    seals(at, 65536);
    headers(at, [
      [0, 4],
      [8, 4],
    ]);
    for (let i = 0; i < 2; i++)
      headers(at + 16 + 32 * i, [
        [0, 8],
        [16, 8],
        [24, 4],
        [28, 4],
      ]);
  }
  const [batAt, metadataAt] = [u64(0x30000 + 32), u64(0x30000 + 64)];
  headers(metadataAt, [
    [0, 8],
    [8, 4],
  ]);
  const items = [];
  for (let i = 0; i < image.readUInt16LE(metadataAt + 10); i++) {
    const at = metadataAt + 32 + 32 * i;
    headers(at, [
      [0, 8],
      [16, 4],
      [20, 4],
      [24, 4],
    ]);
    items.push(metadataAt + image.readUInt32LE(at + 16));
    for (let word = 0; word < image.readUInt32LE(at + 20) && word < 256; word += 4) headers(items[i] + word, [[0, 4]]);
  }
  const [clusterSize, size] = [image.readUInt32LE(items[0]), u64(items[1])];
  const sectorBytes = image.readUInt32LE(items[3]);
  const ratio = (2 ** 23 * sectorBytes) / clusterSize;
  const pointers = [0n, 1n, 2n, 3n, 6n, 7n, 2n ** 20n, 2n ** 20n + 6n, BigInt(image.length), BigInt(image.length) + 6n];
  const isLogged = image.readBigUInt64LE(0x10000 + 48) !== 0n;
  for (let i = 0; i * clusterSize < size; i++) {
    const at = batAt + i * 8;
    const affects = [[i * clusterSize, (i + 1) * clusterSize]];
    places.push({ at, width: 8, affects, kind: 'table' }, { at, width: 8, affects, kind: 'pointer' });
    pointers.push(image.readBigUInt64LE(at));
  }
  const bitmap = image.readBigUInt64LE(batAt + ratio * 8);
  if ((bitmap & 7n) === 6n) {
    places.push({ at: batAt + ratio * 8, width: 8, affects: 'all', kind: 'table' });
    for (let byte = 0; byte * 8 * sectorBytes < size; byte += 97) {
      const first = byte * 8 * sectorBytes;
      const affects = [[first, first + 8 * sectorBytes]];
      places.push({ at: Number(bitmap & ~0xfffffn) + byte, width: 1, affects, kind: 'pointer' });
    }
  }
  const logAt = u64(0x10000 + 72);
  const logLength = image.readUInt32LE(0x10000 + 68);
  for (let at = logAt; isLogged && at < logAt + logLength; at += 4096) {
    if (image.toString('latin1', at, at + 4) !== 'loge') continue;
    const length = image.readUInt32LE(at + 8);
    // the seal of an entry that goes on at the start of the ring is left alone
    if (at + length <= logAt + logLength) seals(at, length);
    headers(at, [
      [0, 4],
      [8, 4],
      [12, 4],
      [16, 8],
      [24, 4],
      [32, 8],
      [48, 8],
      [56, 8],
    ]);
    for (let i = 0; i < image.readUInt32LE(at + 24) && i < 4; i++)
      headers(at + 64 + 32 * i, [
        [0, 4],
        [8, 8],
        [16, 8],
        [24, 8],
      ]);
  }
  return { clusterSize, size, places, pointers, bigEndian: false, sealed };
}

const CRC32C = Uint32Array.from({ length: 256 }, (_, value) => {
  let crc = value;
  for (let i = 0; i < 8; i++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** Sets the checksums of structures right that fields were changed in. @returns where they stand */
function seal(image, sealed, fields) {
  const changed = sealed.filter(({ start, end }) => fields.some(({ at }) => at >= start && at < end));
  for (const { start, end } of changed) {
    image.writeUInt32LE(0, start + 4);
    let crc = -1;
    for (let at = start; at < end; at++) crc = (crc >>> 8) ^ CRC32C[(crc ^ image[at]) & 0xff];
    image.writeUInt32LE(~crc >>> 0, start + 4);
  }
  return changed.map(({ start }) => ({ at: start + 4, width: 4 }));
}

/** A raw image has no places: its first sectors are overwritten with what other formats begin with. */
function rawPlaces(image) {
  const places = Array.from({ length: 64 }, (_, i) => ({
    at: i * 8,
    width: 8,
    affects: [[i * 8, i * 8 + 8]],
    kind: 'other',
  }));
  const magics = ['QFI\xfb\0\0\0\x03', 'QED\0\0\0\x01\0', 'KDMV\x01\0\0\0', 'conectix', 'vhdxfile'];
  return {
    clusterSize: 512,
    size: image.length,
    places,
    pointers: magics.map((text) => Buffer.from(text, 'latin1').readBigUInt64LE()),
    bigEndian: false,
  };
}

/** What can be damaged in an image of each format: a new one has a row here. */
export const PLACES = {
  qcow2: qcow2Places,
  qcow: qcowPlaces,
  qed: qedPlaces,
  vdi: vdiPlaces,
  vmdk: vmdkPlaces,
  bochs: bochsPlaces,
  parallels: parallelsPlaces,
  sparseimage: sparseimagePlaces,
  sparsebundle: sparsebundlePlaces,
  asif: asifPlaces,
  cloop: cloopPlaces,
  dmg: dmgPlaces,
  vpc: vpcPlaces,
  vhdx: vhdxPlaces,
  raw: rawPlaces,
};

const KINDS = ['header', 'table', 'pointer', 'pointer', 'counter', 'data', 'other'];

const NUMBERS = [
  0n,
  1n,
  2n,
  3n,
  4n,
  5n,
  7n,
  8n,
  9n,
  12n,
  16n,
  20n,
  21n,
  22n,
  31n,
  32n,
  63n,
  64n,
  104n,
  112n,
  255n,
  256n,
  511n,
  512n,
  513n,
  1023n,
  1024n,
  4095n,
  4096n,
  4097n,
  65535n,
  65536n,
  2n ** 20n,
  2n ** 25n,
  2n ** 31n - 1n,
  2n ** 31n,
  2n ** 32n - 1n,
  2n ** 32n,
  2n ** 40n,
  2n ** 53n - 1n,
  2n ** 53n,
  2n ** 55n,
  2n ** 56n - 512n,
  2n ** 56n,
  2n ** 61n,
  2n ** 62n,
  2n ** 63n,
  2n ** 64n - 1n,
];

/**
 * Damages an image in place.
 * @returns the fields that were changed, the length that is left of the image, what was done, as a function that gives a
 * sentence, and what that may change
 */
export function mutate(image, map, random) {
  const pick = (list) => list[Math.floor(random() * list.length)];
  const damages = random() < 0.7 ? 1 : 2 + Math.floor(random() * 3);
  const changes = [];
  const fields = [];
  const affected = [];
  let everything = false;
  let mustOpen = true;
  let { length } = image;
  if (random() < 0.04) {
    // a file that was cut, at a border or anywhere
    length = Math.floor(random() * image.length);
    if (random() >= 0.5) length -= length % map.clusterSize;
    everything = true;
  }
  for (let n = 0; n < damages; n++) {
    const kind = pick(KINDS);
    const ofKind = map.byKind[kind];
    const place = pick(ofKind.length > 0 ? ofKind : map.places);
    const { at, width } = place;
    if (at + width > length) continue;
    const value = newValue(image, place, map, random);
    const read = readField(image, at, width, map.bigEndian);
    if (value === read) continue;
    writeField(image, at, width, map.bigEndian, value);
    fields.push(place);
    changes.push({ place, read, value });
    if (place.affects === 'all') everything = true;
    else affected.push(...(place.affects === 'compressed' ? map.compressed(at) : place.affects));
    if (place.kind === 'header' || place.kind === 'other') mustOpen = false;
  }
  if (map.sealed !== undefined && random() < 0.8) fields.push(...seal(image, map.sealed, fields));
  const what = () => {
    const told = changes.map(
      ({ place, read, value }) => `${place.kind} at ${place.at}: 0x${read.toString(16)} -> 0x${value.toString(16)}`,
    );
    return [...(length < image.length ? [`cut to ${length} bytes`] : []), ...told].join(', ');
  };
  return { fields, length, what, affected: everything ? 'all' : affected, mustOpen: mustOpen && !everything };
}

function newValue(bytes, { at, width, kind }, map, random) {
  const pick = (list) => list[Math.floor(random() * list.length)];
  const limit = (1n << BigInt(width * 8)) - 1n;
  const old = readField(bytes, at, width, map.bigEndian);
  const way = random();
  if (way < 0.3) return old ^ (1n << BigInt(Math.floor(random() * width * 8)));
  if (way < 0.6 && kind !== 'counter' && kind !== 'data')
    return (pick(map.pointers) + pick([0n, 0n, 0n, 1n, 512n, -512n, BigInt(map.clusterSize)])) & limit;
  if (way < 0.88) return pick(NUMBERS) & limit;
  if (way < 0.92) return (old + pick(STEPS) * BigInt(1 + Math.floor(random() * 16))) & limit;
  if (way < 0.96) return (pick(sizesOf(bytes, map)) + BigInt(Math.floor(random() * 5) - 2)) & limit;
  return BigInt(Math.floor(random() * 2 ** 32)) & limit;
}

/** How far a neighbour of a value is away. */
const STEPS = [1n, -1n, 8n, -8n, 512n, -512n];

/** What fields of this very image are compared with: sizes of its file and its disk, in bytes, sectors and clusters. */
function sizesOf(bytes, { size, clusterSize }) {
  return [bytes.length, size].flatMap((length) =>
    [1, 512, clusterSize].map((unit) => BigInt(Math.floor(length / unit))),
  );
}

function readField(bytes, at, width, bigEndian) {
  if (width === 8) return bigEndian ? bytes.readBigUInt64BE(at) : bytes.readBigUInt64LE(at);
  if (width === 4) return BigInt(bigEndian ? bytes.readUInt32BE(at) : bytes.readUInt32LE(at));
  return BigInt(bytes[at]);
}

function writeField(bytes, at, width, bigEndian, value) {
  if (width === 8) {
    if (bigEndian) bytes.writeBigUInt64BE(value, at);
    else bytes.writeBigUInt64LE(value, at);
  } else if (width === 4) {
    if (bigEndian) bytes.writeUInt32BE(Number(value), at);
    else bytes.writeUInt32LE(Number(value), at);
  } else bytes[at] = Number(value);
}

/** Guest ranges of the compressed clusters whose stored bytes include the one at `at`. */
function compressedRanges(image) {
  const clusterBits = image.readUInt32BE(20);
  const clusterSize = 2 ** clusterBits;
  const extended = image.readUInt32BE(4) === 3 && (image.readBigUInt64BE(72) & 16n) !== 0n;
  const entryBytes = extended ? 16 : 8;
  const perTable = clusterSize / entryBytes;
  const l1 = Number(image.readBigUInt64BE(40));
  const ranges = [];
  for (let i = 0; i < image.readUInt32BE(36); i++) {
    const table = Number(image.readBigUInt64BE(l1 + i * 8) & OFFSET_MASK);
    for (let j = 0; table !== 0 && j < perTable; j++) {
      const entry = image.readBigUInt64BE(table + j * entryBytes);
      if ((entry & COMPRESSED) === 0n) continue;
      const bits = BigInt(62 - (clusterBits - 8));
      const offset = Number(entry & ((1n << bits) - 1n));
      const sectors = Number((entry & (COMPRESSED - 1n)) >> bits) + 1;
      const guest = (i * perTable + j) * clusterSize;
      ranges.push({ start: offset, end: offset - (offset % 512) + sectors * 512, guest: [guest, guest + clusterSize] });
    }
  }
  return (at) => ranges.filter(({ start, end }) => at >= start && at < end).map(({ guest }) => guest);
}
