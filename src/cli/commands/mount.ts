// `imgfuse mount` with its help. The parsing and the work are in mount-arguments.ts and start-mount.ts: this file is only
// loaded for help, completion, and arguments with a fault.

import { formats } from '../../disk/index.ts';
import type { Command } from '../command.ts';
import { MOUNT_SHAPE } from '../mount-arguments.ts';
import { startMount } from '../start-mount.ts';
import { layOut, wrapText } from '../text-layout.ts';

const LAZY = formats
  .filter(({ can }) => can.lazyRefcounts)
  .map(({ name }) => name)
  .join(', ');

/** The mount options of -o, for the help. */
export const MOUNT_OPTIONS_HELP: readonly (readonly [options: string, text: string])[] = [
  ['ro, rw', 'read-only: the image file is never written; default rw'],
  ['share', 'with ro, overlay or snapshot: read an image that another program writes; see "imgfuse remount --help"'],
  ['overlay=FILE', 'changes go to FILE, a new or existing overlay; the image is only read'],
  ['snapshot', 'the same with a file in $TMPDIR, else /var/tmp, that is gone after the unmount'],
  [
    'allow_other',
    'let other users in (an ordinary user needs user_allow_other in /etc/fuse.conf); without it even root cannot losetup ' +
      "another user's disk",
  ],
  [
    'partition=N',
    'show partition N as the mountpoint, which must be a regular file; in a directory it is partitions/N.raw without this',
  ],
  ['uid=N, gid=N, umask=OCTAL', 'owner and permissions shown; default: you, mode 0600 (ro: 0400)'],
  ['fsname=NAME, max_read=BYTES', 'as for every FUSE file system'],
  [
    'copy_on_read, nocopy_on_read',
    'clusters that are read from the backing file become the image\'s own; default: as stored by "create -o ' +
      'copy_on_read=on", else no',
  ],
  ['noexec, noatime, sync, ...', 'as for mount(8); nosuid and nodev are always on'],
  [
    'format=, workers=, transport=, allow_backing=, key_file=, key_env=, pid_file=, nolock, debug',
    'the options above, for fstab',
  ],
  [
    'full=report, full=wait',
    'a write for which the host has no space fails with ENOSPC (report, the default), or is held until there is space, while ' +
      'reads go on (wait)',
  ],
  ['any_parent', 'use a backing file even if it is not the image that the overlay was made on'],
  ['lazy_refcounts', `${LAZY}: the image is marked dirty while it changes, and checked after a crash`],
];

const EXIT_STATUS = 'Exit status: 0 the mount answers; 1 usage or permission; 2 system error; 32 mount failure.';

export const mountCommand: Command = {
  ...MOUNT_SHAPE,
  name: 'mount',
  summary: 'Mount an image; its disk appears as the raw file MOUNTPOINT/disk.raw',
  examples: [
    ['imgfuse mount disk.qed /mnt/img', 'read-write, in the background'],
    ['imgfuse mount disk.qed /mnt/img -o ro -f', 'read-only, in the foreground'],
    ['mount -t fuse.imgfuse disk.qed /mnt/img -o ro', 'the same through mount(8)'],
  ],
  epilogue: (width) =>
    [
      ...wrapText('Mount options (-o, repeatable, also from mount(8) and fstab):', width),
      layOut(MOUNT_OPTIONS_HELP, width),
      '',
      ...wrapText(EXIT_STATUS, width),
    ].join('\n'),
  run: startMount,
};
