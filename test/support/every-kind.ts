// A small image of every kind: each format, and those of its variants that lie in several files, or differ in how they are
// opened. What holds for images of all formats alike is tested over this table; a new format adds its row.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { createDisk } from '../../src/disk/index.ts';
import { bundleImage, writeBundle } from './bundle-bytes.ts';
import { withDisk } from './image-files.ts';
import { READ_ONLY_IMAGES } from './read-only-images.ts';
import { seSparseImage, streamImage } from './vmdk-images.ts';

const SECTOR = 512;

export interface MadeImage {
  /** path of the image: a file, or a directory that is one */
  readonly image: string;
  readonly content: Buffer;
}

export interface EveryKind {
  readonly name: string;
  /** of the registry */
  readonly format: string;
  readonly isWritable: boolean;
  /** whether create takes a backing file for such an image */
  readonly hasBacking: boolean;
  /** Writes the image and its other files into a directory. @param name of the image there */
  readonly make: (directory: string, name?: string) => MadeImage;
}

/** Data at both ends of a disk and a hole between. */
const WRITTEN = Buffer.concat([
  Buffer.alloc(3 * SECTOR, 'first'),
  Buffer.alloc(57 * SECTOR),
  Buffer.alloc(SECTOR, 'end'),
]);

function createAt(image: string, format: string, options: Readonly<Record<string, string>>): void {
  createDisk(image, format, { size: WRITTEN.length, options: new Map(Object.entries(options)) });
  withDisk(image, { readOnly: false, format }, (disk) => {
    disk.write(WRITTEN, 0, 3 * SECTOR, guestOffset(0));
    disk.write(WRITTEN, 60 * SECTOR, SECTOR, guestOffset(60 * SECTOR));
  });
}

function written(format: string, options: Readonly<Record<string, string>> = {}, hasBacking = false): EveryKind {
  const shown = Object.entries(options)
    .filter(([key]) => !key.endsWith('_size'))
    .map(([key, value]) => (key === 'subformat' ? value : key))
    .join(', ');
  return {
    name: shown === '' ? format : `${format}, ${shown}`,
    ...{ format, isWritable: true, hasBacking },
    make: (directory, name = 'disk.img') => {
      createAt(join(directory, name), format, options);
      return { image: join(directory, name), content: Buffer.from(WRITTEN) };
    },
  };
}

/** A Parallels disk as the program keeps it: a directory with a descriptor and one expanding file. */
function parallelsDirectory(directory: string, name = 'disk.hdd'): MadeImage {
  const image = join(directory, name);
  mkdirSync(image);
  createAt(join(image, 'root.hds'), 'parallels', { cluster_size: '4k' });
  const sectors = WRITTEN.length / SECTOR;
  const guid = '{5fbaabe3-6958-40ff-92a7-860e329aab41}';
  const file = `<Image><GUID>${guid}</GUID><Type>Compressed</Type><File>root.hds</File></Image>`;
  writeFileSync(
    join(image, 'DiskDescriptor.xml'),
    `<?xml version='1.0' encoding='UTF-8'?>\n<Parallels_disk_image Version="1.0">\n` +
      `<Disk_Parameters><Disk_size>${sectors}</Disk_size><Padding>0</Padding></Disk_Parameters>\n<StorageData><Storage>` +
      `<Start>0</Start><End>${sectors}</End><Blocksize>8</Blocksize>${file}</Storage></StorageData>\n` +
      `<Snapshots><Shot><GUID>${guid}</GUID><ParentGUID>{00000000-0000-0000-0000-000000000000}</ParentGUID></Shot></Snapshots>\n` +
      '</Parallels_disk_image>\n',
  );
  return { image, content: Buffer.from(WRITTEN) };
}

function bundleDirectory(directory: string, name = 'disk.sparsebundle'): MadeImage {
  const image = join(directory, name);
  const made = bundleImage();
  mkdirSync(image);
  writeBundle(image, made);
  return { image, content: made.content };
}

function read(name: string, format: string, make: EveryKind['make']): EveryKind {
  return { name, format, isWritable: false, hasBacking: false, make };
}

function readFile(name: string, format: string, bytes: () => { image: Uint8Array; content: Buffer }): EveryKind {
  return read(name, format, (directory, file = 'disk.img') => {
    const { image, content } = bytes();
    writeFileSync(join(directory, file), image);
    return { image: join(directory, file), content };
  });
}

export const EVERY_KIND: readonly EveryKind[] = [
  written('raw'),
  written('qed', { cluster_size: '4k', table_size: '1' }, true),
  written('qcow2', { cluster_size: '4k' }, true),
  written('qcow2', { cluster_size: '4k', data_file: 'disk.data' }),
  written('qcow', {}, true),
  written('vdi', { block_size: '4k' }, true),
  written('vpc', { block_size: '4k' }, true),
  written('vpc', { subformat: 'fixed' }),
  written('vmdk', { grain_size: '4k' }, true),
  written('vmdk', { grain_size: '4k', subformat: 'twoGbMaxExtentSparse' }, true),
  written('vmdk', { subformat: 'monolithicFlat' }),
  written('vhdx', { block_size: '1M' }, true),
  written('vhdx', { subformat: 'fixed' }),
  written('parallels', { cluster_size: '4k' }),
  read('parallels, a directory', 'parallels', parallelsDirectory),
  readFile('vmdk, streamOptimized', 'vmdk', streamImage),
  read('vmdk, SESparse', 'vmdk', (directory, file = 'disk.img') => {
    const { image, extent, content } = seSparseImage();
    writeFileSync(join(directory, 'x-sesparse.vmdk'), extent!);
    writeFileSync(join(directory, file), image);
    return { image: join(directory, file), content };
  }),
  ...Object.entries(READ_ONLY_IMAGES).map(([format, make]) =>
    format === 'sparsebundle' ? read('sparsebundle', format, bundleDirectory) : readFile(format, format, make),
  ),
];
