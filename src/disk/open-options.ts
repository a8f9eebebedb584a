// What an opener of a disk may say. It is data, but for the functions that are called while the disk is opened.

import type { OpenStep } from '../format/image-format.ts';
import type { LockMode } from '../host/image-locks.ts';
import type { OverlaidImage } from './overlay.ts';

export interface OpenDiskOptions {
  readonly readOnly: boolean;
  /** absent: probed */
  readonly format?: string | undefined;
  /** directories and URLs in or below which backing files may lie, beside the image's own directory */
  readonly allowBacking?: readonly string[] | undefined;
  /** which of QEMU's image locks are taken, on every file of the chain; default: those of the opening */
  readonly locks?: LockMode | undefined;
  /** the same for the files of the images below the top one; default: `locks` */
  readonly locksBelow?: LockMode | undefined;
  /** the path is that of an overlay on this image, which is made if it is not there; `format` is that of this image */
  readonly overlaid?: OverlaidImage | undefined;
  /** how far below the top one the image is that is opened for writing as well; default: none is */
  readonly writtenDepth?: number | undefined;
  /** bytes of the password of an encrypted image; they are overwritten after use. Throws if there is none */
  readonly password?: ((imagePath: string) => Uint8Array) | undefined;
  /** memory for cached tables of each image in bytes; default 64 MiB */
  readonly tableCacheBytes?: number | undefined;
  /**
   * clusters that are read from a backing file become the image's own; 'stored': if that is set on the image file itself
   * (copy-on-read-default.ts), and not when it is opened read-only. Default: no
   */
  readonly copyOnRead?: boolean | 'stored' | undefined;
  /** threads that use the disk at the same time, this one included; default 1 */
  readonly slots?: number | undefined;
  /** whether to use a backing file that is not the image its overlay was made on; default: it is refused */
  readonly anyParent?: boolean | undefined;
  /** qcow2: the counters may be late, and the image is marked dirty while it changes */
  readonly lazyRefcounts?: boolean | undefined;
  /** time in which every read must be answered, with an error if need be; default: no limit */
  readonly answerMs?: number | undefined;
  /** whether VirtualDisk.snapshots() is wanted; default: no */
  readonly snapshots?: boolean | undefined;
  /** directory of the marks of images that were closed clean (closed-marks.ts); default: every read-write open walks */
  readonly closedMarks?: string | undefined;
  /** called once for each repair and warning */
  readonly log?: ((sentence: string) => void) | undefined;
  /** told what the open is doing, for steps that may take long */
  readonly progress?: ((step: OpenStep) => void) | undefined;
}
