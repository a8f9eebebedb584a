// What there is to say of an open disk: for `status`, status.json and the log.

import { type Image, imageChain, type ReadableImage } from '../format/image-format.ts';
import type { RemoteFile, Traffic } from '../host/host-file.ts';
import { type DiskShare, shareOf } from './chain.ts';
import type { CopyOnRead } from './copy-on-read.ts';
import { formatByName } from './registry.ts';

export interface DiskStatus {
  readonly path: string;
  readonly format: string;
  readonly virtualSize: number;
  readonly clusterSize: number;
  readonly readOnly: boolean;
  readonly dirty: boolean;
  /** whether the dirty flag is set while the image changes; null if the format has no such choice */
  readonly lazyRefcounts: boolean | null;
  /** why the image turned read-only, or null */
  readonly failure: string | null;
  readonly allocatedBytes: number;
  /** the file that holds the data if the image file does not, else null */
  readonly dataFile: string | null;
  /** absolute paths or URLs of the backing chain, the nearest first */
  readonly backing: readonly string[];
  /** there is an image below, and it could be opened for writing by its format and its place */
  readonly isBackingWritable: boolean;
  /** null: off */
  readonly copyOnRead: 'on' | 'stopped' | null;
  /** bytes that the image itself has and bytes that only the chain below has; null: no chain, or not counted in time */
  readonly share: DiskShare | null;
  /** what went over the network for each image of the chain that is read over HTTP */
  readonly network: readonly NetworkStatus[];
}

export interface NetworkStatus extends Traffic {
  readonly url: string;
}

/** @param remote of the chain, the files whose bytes come from a server */
export function statusOf(
  image: Image,
  copyOnRead: Pick<CopyOnRead, 'isStopped'> | null,
  remote: readonly RemoteFile[],
): DiskStatus {
  const { clusterSize, file, files, format, readOnly } = image;
  const { dirty, lazyRefcounts = null, virtualSize } = image.details();
  return {
    path: file.path,
    ...{ format, virtualSize, clusterSize, readOnly, dirty, lazyRefcounts },
    failure: image.readOnly ? null : image.failure(),
    allocatedBytes: image.allocatedBytes(),
    dataFile: files.find(({ role }) => role === 'data')?.file.path ?? null,
    backing: imageChain(image)
      .slice(1)
      .map((each) => each.file.path),
    isBackingWritable: isWritableKind(image.backing),
    copyOnRead: copyOnRead === null ? null : copyOnRead.isStopped ? 'stopped' : 'on',
    share: shareOf(image),
    network: remote.map((each) => ({ url: each.url, ...each.traffic() })),
  };
}

function isWritableKind(image: ReadableImage | null): boolean {
  if (image === null || image.file.remote !== undefined) return false;
  return formatByName(image.format).can.write && image.details().isOnlyRead !== true;
}
