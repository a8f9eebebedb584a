// Looking at a Parallels disk of several files without opening it: what the descriptor says, and whether one of the files is in use.

import type { HostFile } from '../../host/host-file.ts';
import { ExtentLooks } from '../extent-looks.ts';
import type { ImageDetails, OpenOptions } from '../image-format.ts';
import { describeDescriptor, readDescriptor } from './descriptor.ts';
import { readHeader } from './header.ts';

/** A file that cannot be opened is told. Plain ones are opened too, for the space that they take. */
export function inspectDisk(
  file: HostFile,
  log: (sentence: string) => void = () => undefined,
  openExtent?: OpenOptions['openExtent'],
): ImageDetails {
  const descriptor = readDescriptor(file);
  const looks = new ExtentLooks<boolean>(openExtent);
  const uses = descriptor.storages
    .flatMap(({ chain }) => chain)
    .map(({ name, type }) => looks.look(name, (extent) => type === 'Compressed' && readHeader(extent).isInUse));
  looks.tell(file.path, log);
  return { ...describeDescriptor(descriptor), dirty: uses.includes(true) };
}
