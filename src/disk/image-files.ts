// The files that one opening of an image takes: each is found under the policy for backing files and locked before a byte of it is
// read. The caller closes `opened`, whatever fails. Invariant: no file is opened twice, because that would be a loop.

import { assert, ImgfuseError } from '../errors/index.ts';
import type { OpenOptions, OpenStep } from '../format/image-format.ts';
import { type FileIdentity, isSameFile } from '../host/file-identity.ts';
import type { HostFile } from '../host/host-file.ts';
import { isUrl } from '../host/http/url.ts';
import { type LockMode, lockImage } from '../host/image-locks.ts';
import { PieceFiles } from '../host/piece-files.ts';
import { PosixHostFile } from '../host/posix-file.ts';
import type { PieceLayout } from '../host/shared-file.ts';
import { allowedUrls, type NamingImage, resolveExtent } from './backing-policy.ts';
import { type NamedBy, openImageFile } from './image-file.ts';

/** As in OpenDiskOptions. */
export interface ImageFilesOptions {
  readonly allowBacking?: readonly string[] | undefined;
  readonly locks?: LockMode | undefined;
  readonly locksBelow?: LockMode | undefined;
  readonly answerMs?: number | undefined;
  readonly progress?: ((step: OpenStep) => void) | undefined;
}

export class ImageFiles {
  /** in the order of opening */
  readonly opened: HostFile[] = [];
  private readonly options: ImageFilesOptions;
  private readonly seen: FileIdentity[] = [];

  constructor(options: ImageFilesOptions) {
    this.options = options;
  }

  /** @param descriptor of the file when it was opened before; null: it is found by its name */
  open(path: string, readOnly: boolean, namedBy: NamedBy, descriptor: number | null = null): HostFile {
    return this.openLocked(path, readOnly, namedBy, this.options.locks, descriptor);
  }

  /** Opens a file of an image below the top one. */
  openBelow(path: string, readOnly: boolean, namedBy: NamedBy): HostFile {
    const { locks, locksBelow = locks } = this.options;
    return this.openLocked(path, readOnly, namedBy, locksBelow, null);
  }

  private openLocked(
    path: string,
    readOnly: boolean,
    namedBy: NamedBy,
    locks: LockMode | undefined,
    descriptor: number | null,
  ): HostFile {
    const { allowBacking = [], answerMs, progress } = this.options;
    if (isUrl(path)) progress?.({ doing: `waiting for ${path}` });
    const file =
      descriptor === null
        ? openImageFile(path, readOnly, namedBy, allowedUrls(allowBacking), answerMs)
        : PosixHostFile.reopen(path, descriptor, readOnly);
    this.add(file);
    lockImage(file, locks);
    return file;
  }

  private add(file: HostFile): void {
    const { path } = file;
    this.opened.push(file);
    const identity = file.identity();
    if (this.seen.some((other) => isSameFile(other, identity))) {
      throw new ImgfuseError(
        'corrupt',
        `${path} is in its own backing chain, or holds the data of two images; that is a loop and cannot be opened`,
        { path },
      );
    }
    this.seen.push(identity);
  }

  /** What opens the other files of an image, which only the image names. @param isTop false: it is below another one */
  extentsOf(image: NamingImage, readOnly: boolean, isTop = true): NonNullable<OpenOptions['openExtent']> {
    const policy = { allowed: this.options.allowBacking ?? [] };
    return (name, role, access, layout) => {
      assert(access === 'read' || !readOnly, 'an image that is opened read-only writes to no file');
      if (layout !== undefined) return this.openPieces(resolveExtent(image, name, role, policy, 'directory'), layout);
      const path = resolveExtent(image, name, role, policy);
      const open = isTop ? this.open : this.openBelow;
      return open.call(this, path, access === 'read', 'image');
    };
  }

  private openPieces(path: string, layout: PieceLayout): HostFile {
    const file = PieceFiles.open(path, layout);
    this.add(file);
    return file;
  }
}
