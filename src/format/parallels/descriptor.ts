// DiskDescriptor.xml of a Parallels disk: which files it consists of. The disk is cut in storages, one behind the other; each has a
// file for every snapshot, and what the file of a snapshot lacks is in that of its parent.
//
//   Parallels_disk_image
//     Disk_Parameters   Disk_size (sectors), Padding, Encryption (Engine)
//     StorageData       Storage: Start, End, Blocksize (sectors), Image: GUID, Type (Compressed, Plain), File
//     Snapshots         TopGUID, Shot: GUID, ParentGUID

import { hostOffset, MAX_VIRTUAL_SIZE, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { DamagedData } from '../../codec/damaged-data.ts';
import { childrenNamed, MAX_XML_BYTES, parseXml, type XmlElement } from '../../codec/xml.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { ImageDetails } from '../image-format.ts';
import { DESCRIPTOR_ROOT } from './signature.ts';

/** The state of the disk that has no name of its own. */
const DEFAULT_TOP = '{5fbaabe3-6958-40ff-92a7-860e329aab41}';
const NULL_GUID = '{00000000-0000-0000-0000-000000000000}';
const MAX_CHAIN = 64;
const MAX_STORAGES = 512;

export interface StorageImage {
  readonly type: 'Compressed' | 'Plain';
  /** as the descriptor says it, of an absolute name the last part */
  readonly name: string;
}

export interface Storage {
  /** guest offsets in bytes, of whole sectors */
  readonly start: number;
  readonly end: number;
  /** those of the snapshots that make the disk as it is, the oldest first */
  readonly chain: readonly StorageImage[];
}

export interface Descriptor {
  /** virtual size in bytes */
  readonly diskBytes: number;
  /** bytes of a block of the first storage */
  readonly blockBytes: number;
  /** in order, without gaps */
  readonly storages: readonly Storage[];
}

/** @throws ImgfuseError corrupt, unsupported */
export function readDescriptor(file: HostFile): Descriptor {
  const { path } = file;
  try {
    return descriptorFrom(rootOf(file));
  } catch (error) {
    if (!(error instanceof DamagedData)) throw error;
    throw new ImgfuseError('corrupt', `${path}: this disk descriptor ${error.message}`, { path }, error);
  }
}

function rootOf(file: HostFile): XmlElement {
  const size = file.size();
  if (size > MAX_XML_BYTES) throw new DamagedData(`has ${size} bytes; the limit is ${MAX_XML_BYTES}`);
  const bytes = new Uint8Array(size);
  const root = parseXml(bytes.subarray(0, file.read(bytes, 0, size, hostOffset(0))));
  if (root.name !== DESCRIPTOR_ROOT) throw new DamagedData(`has <${root.name}> where <${DESCRIPTOR_ROOT}> is due`);
  const parameters = only(root, 'Disk_Parameters');
  const padding = textOf(parameters, 'Padding');
  if (padding !== null && Number(padding) !== 0) throw refused(file, 'has padding');
  const engine = parameters.children.flatMap((child) => childrenNamed(child, 'Engine'))[0]?.text.trim() ?? '';
  if (engine !== '' && engine !== NULL_GUID) throw refused(file, 'is encrypted');
  return root;
}

function refused({ path }: HostFile, what: string): ImgfuseError {
  const cure = 'convert it with the programs of Parallels';
  return new ImgfuseError('unsupported', `${path}: this disk ${what}, and imgfuse does not read such disks; ${cure}`, {
    path,
  });
}

function descriptorFrom(root: XmlElement): Descriptor {
  const chain = chainOf(root);
  const found = childrenNamed(only(root, 'StorageData'), 'Storage');
  if (found.length === 0 || found.length > MAX_STORAGES) throw new DamagedData(`has ${found.length} storages`);
  const storages = found.map((storage) => storageFrom(storage, chain)).sort((a, b) => a.start - b.start);
  let end = 0;
  for (const storage of storages) {
    if (storage.start !== end) throw new DamagedData(`has a storage from ${storage.start} on, where ${end} is due`);
    end = storage.end;
  }
  const parameters = only(root, 'Disk_Parameters');
  const size = textOf(parameters, 'Disk_size') === null ? end : sectorsOf(parameters, 'Disk_size');
  // a storage may end with its last block
  if (size > end) throw new DamagedData(`has storages up to ${end}, and a disk of ${size} bytes: one is missing`);
  const blockBytes = sectorsOf(found[0]!, 'Blocksize');
  if (blockBytes === 0) throw new DamagedData('has blocks of no sectors');
  return { diskBytes: end, blockBytes, storages };
}

/** GUIDs of the snapshots below the disk as it is, the oldest first. */
function chainOf(root: XmlElement): readonly string[] {
  const snapshots = childrenNamed(root, 'Snapshots')[0];
  const parents = new Map<string, string>();
  for (const shot of snapshots === undefined ? [] : childrenNamed(snapshots, 'Shot')) {
    const guid = guidOf(shot, 'GUID');
    if (parents.has(guid)) throw new DamagedData(`has two snapshots ${guid}`);
    parents.set(guid, guidOf(shot, 'ParentGUID'));
  }
  const named = snapshots === undefined ? null : textOf(snapshots, 'TopGUID');
  const chain: string[] = [];
  let next = (named ?? DEFAULT_TOP).toLowerCase();
  while (next !== NULL_GUID) {
    if (chain.includes(next) || chain.length === MAX_CHAIN) throw new DamagedData('has snapshots without an end');
    chain.unshift(next);
    const parent = parents.get(next);
    // a disk without snapshots need not list the one state that it has
    if (parent === undefined && (parents.size > 0 || named !== null)) throw new DamagedData(`has no snapshot ${next}`);
    next = parent ?? NULL_GUID;
  }
  return chain;
}

function storageFrom(storage: XmlElement, guids: readonly string[]): Storage {
  const start = sectorsOf(storage, 'Start');
  const end = sectorsOf(storage, 'End');
  if (end <= start) throw new DamagedData(`has a storage from ${start} to ${end}`);
  const images = new Map<string, StorageImage>();
  for (const image of childrenNamed(storage, 'Image')) {
    const guid = guidOf(image, 'GUID');
    if (images.has(guid)) throw new DamagedData(`has two files of the snapshot ${guid} for the storage at ${start}`);
    images.set(guid, imageFrom(image));
  }
  const chain = guids.map((guid) => {
    const image = images.get(guid);
    if (image === undefined) throw new DamagedData(`has no file of the snapshot ${guid} for the storage at ${start}`);
    return image;
  });
  return { start, end, chain };
}

function imageFrom(image: XmlElement): StorageImage {
  const type = only(image, 'Type').text.trim();
  const name = only(image, 'File').text;
  if (type !== 'Compressed' && type !== 'Plain')
    throw new DamagedData(`has a file of the type ${JSON.stringify(type)}`);
  // the disk may have been moved since
  return { type, name: /^([A-Za-z]:)?[/\\]/.test(name) ? name.split(/[/\\]/).at(-1)! : name };
}

function only(element: XmlElement, name: string): XmlElement {
  const found = childrenNamed(element, name);
  if (found.length === 1) return found[0]!;
  throw new DamagedData(`has <${name}> ${found.length} times in <${element.name}>, where one is due`);
}

function textOf(element: XmlElement, name: string): string | null {
  return childrenNamed(element, name)[0]?.text.trim() ?? null;
}

function guidOf(element: XmlElement, name: string): string {
  return only(element, name).text.trim().toLowerCase();
}

/** A number of sectors, in bytes. */
function sectorsOf(element: XmlElement, name: string): number {
  const text = only(element, name).text.trim();
  const bytes = /^\d{1,16}$/.test(text) ? Number(text) * SECTOR_BYTES : Number.NaN;
  if (bytes <= MAX_VIRTUAL_SIZE) return bytes;
  throw new DamagedData(`has the number of sectors ${JSON.stringify(text.slice(0, 40))} in <${name}>`);
}

export function describeDescriptor({ blockBytes, diskBytes }: Descriptor): ImageDetails {
  const sizes = { virtualSize: diskBytes, clusterSize: blockBytes };
  return { format: 'parallels', ...sizes, dirty: false, isOnlyRead: true, specific: {} };
}
