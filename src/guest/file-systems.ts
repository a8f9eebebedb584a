// What the guest's file systems need: which drivers of the kernel mount them, which option leaves a journal alone that cannot be
// replayed, and which program serves them without root. The names are those of blkid, which are those of mount(8) where it has one.

import { namesIn } from '../host/small-files.ts';

/** How file systems of one type are mounted. */
export interface FileSystem {
  /** types for mount(8), the best one first; absent: the type itself */
  readonly drivers?: readonly string[];
  /** mount options that it always gets */
  readonly always?: readonly string[];
  /** the mount option that reads past a journal without replaying it */
  readonly withoutReplay?: string;
  /** serves it without root and without a loop device */
  readonly program?: UserSpaceServer;
  /** what to do on a machine whose kernel has no driver */
  readonly cure?: string;
}

/** A program that serves a file system inside a file: PROGRAM -o OPTIONS FILE DIRECTORY. */
export interface UserSpaceServer {
  readonly name: string;
  /** Debian's package */
  readonly package: string;
  readonly options: readonly string[];
  /** it gives the mount a source that does not name its file, unless an option does */
  readonly hidesFile?: boolean;
  readonly withoutReplay?: string;
  /** replays a journal before it is served; the file follows, and exit code 1 means that something was corrected */
  readonly replay?: readonly [program: string, ...parameters: string[]];
}

// fakeroot: whoever may read the image may read all of it, whoever the files in it belong to
const FUSE2FS: UserSpaceServer = {
  name: 'fuse2fs',
  package: 'fuse2fs',
  options: ['fakeroot'],
  withoutReplay: 'norecovery',
  // fuse2fs 1.47 replays a journal and crashes at the next request; e2fsck also corrects the counters, as a start of Linux would
  replay: ['e2fsck', '-p'],
};
const EXT: FileSystem = { withoutReplay: 'noload', program: FUSE2FS };

const FILE_SYSTEMS: Readonly<Record<string, FileSystem>> = {
  ext2: { program: FUSE2FS },
  ext3: EXT,
  ext4: EXT,
  // nouuid: a copy of a mounted file system, such as the disk that this machine was cloned from, is mounted beside it
  xfs: { always: ['nouuid'], withoutReplay: 'norecovery' },
  btrfs: { withoutReplay: 'rescue=nologreplay' },
  squashfs: { program: { name: 'squashfuse', package: 'squashfuse', options: [], hidesFile: true } },
  ntfs: {
    drivers: ['ntfs3', 'ntfs'],
    cure: 'install ntfs-3g (Debian: apt install ntfs-3g), or use a kernel with the module ntfs3',
  },
};

export function fileSystem(type: string): FileSystem {
  return Object.hasOwn(FILE_SYSTEMS, type) ? FILE_SYSTEMS[type]! : {};
}

/** Why a file system of this type cannot be mounted beside one that is mounted already; null if it can. */
export function cloneFault(type: string, uuid: string | null): string | null {
  if (type !== 'btrfs' || uuid === null || !namesIn('/sys/fs/btrfs').includes(uuid.toLowerCase())) return null;
  return (
    `a btrfs with its UUID ${uuid} is mounted on this machine already, and the kernel would take one for the other; ` +
    'unmount that one first, or give one of them another UUID: btrfstune -u'
  );
}
