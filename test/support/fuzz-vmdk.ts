// VMDK images for the fuzzer.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { KIB, makeSubjects, oneSubject, type Recipe, type Subject, setByte, WRITES } from './fuzz-subjects.ts';
import { qemuImg } from './qemu.ts';
import { NONE, SECTOR, sparseBytes, ZERO } from './vmdk-bytes.ts';
import { descriptorText } from './vmdk-text.ts';

const VMDK: readonly Recipe[] = [
  { name: 'sparse', options: 'subformat=monolithicSparse', size: 640 * KIB + 512, commands: WRITES },
  { name: 'zero grains', options: 'zeroed_grain=on', size: 640 * KIB, commands: WRITES },
  {
    name: 'not closed clean',
    options: 'adapter_type=lsilogic',
    size: 640 * KIB,
    commands: WRITES,
    finish: (path) => setByte(path, 72, 1),
  },
];

/** Images of QEMU, a compressed one, a descriptor beside its flat extent, and an image of several files. */
export function makeVmdks(folder: string): Subject[] {
  const raw = join(folder, 'vmdk-source.raw');
  writeFileSync(raw, Buffer.alloc(300 * KIB, 'data').fill(0, 70 * KIB, 140 * KIB));
  const streamed = join(folder, 'vmdk-streamed');
  qemuImg('convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=streamOptimized', raw, streamed);
  const dataFile = join(folder, 'vmdk-flat');
  writeFileSync(dataFile, Buffer.alloc(64 * KIB, 'flat'));
  const extents = ['RW 64 FLAT "vmdk-flat" 0', 'RW 8 ZERO', 'RDONLY 56 FLAT "vmdk-flat" 72'];
  return [
    ...makeSubjects('vmdk', VMDK, folder),
    { name: 'vmdk, streamed', format: 'vmdk', path: streamed, rarity: 1 },
    { ...oneSubject('vmdk', folder, Buffer.from(descriptorText({ extents })), 'vmdk descriptor'), dataFile },
    ...makeThreeFiles(folder),
  ];
}

/** One image of a descriptor and three extents of different kinds, once for each of its files, which is the damaged one. */
function makeThreeFiles(folder: string): Subject[] {
  const files = [
    { kind: 'SPARSE', bytes: sparseBytes({ entries: [1, NONE, 0, 2, NONE], capacity: 61 }) },
    { kind: 'FLAT', bytes: Buffer.alloc(20 * SECTOR, 'flat') },
    { kind: 'SPARSE', bytes: sparseBytes({ entries: [NONE, ZERO, 0, 1], zeroGrains: true }) },
  ];
  const sectors = [61, 20, 32];
  const lines = files.map(({ kind }, i) => `RW ${sectors[i]} ${kind} "vmdk-part-${i}"${kind === 'FLAT' ? ' 0' : ''}`);
  let start = 0;
  const extents = files.map(({ bytes }, i) => {
    const name = `vmdk-part-${i}`;
    const path = join(folder, name);
    writeFileSync(path, bytes);
    start += i === 0 ? 0 : sectors[i - 1]! * SECTOR;
    return { name, path, start };
  });
  const text = Buffer.from(descriptorText({ extents: lines }));
  const whole = { ...oneSubject('vmdk', folder, text, 'vmdk of three files'), extents };
  return [whole, ...extents.map((_, damaged) => ({ ...whole, name: `${whole.name}, number ${damaged}`, damaged }))];
}
