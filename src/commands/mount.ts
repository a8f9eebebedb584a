// `imgfuse mount` as yargs explains it. The parsing and the work are in mount-arguments.ts and start-mount.ts: this file
// is only loaded for --help, completion, and arguments that the fast parser did not understand.

import type { Argv, Options } from 'yargs';
import { MOUNT_ARGUMENTS, type MountArgument, type ParsedMountArguments } from './mount-arguments.ts';
import { startMount } from './start-mount.ts';

const OPTIONS_HELP = `Mount options (-o, repeatable, also from mount(8) and fstab):
  ro, rw                       read-only: the image file is never written; default rw
  share                        with ro: read beside whoever writes the image; see "imgfuse remount --help"
  allow_other                  let other users in (not root: needs user_allow_other in /etc/fuse.conf);
                               without it, root cannot losetup another user's disk either
  uid=N, gid=N, umask=OCTAL    owner and permissions shown; default: you, mode 0600 (ro: 0400)
  fsname=NAME, max_read=BYTES  as for every FUSE file system
  copy_on_read, nocopy_on_read clusters that are read from the backing file become the image's own;
                               default: as stored by "create -o copy_on_read=on", else not
  noexec, noatime, sync, ...   as for mount(8); nosuid and nodev are always on
  format=, workers=, transport=, allow_backing=, key_file=, key_env=, pid_file=, nolock, debug
                               the options above, for fstab
  lazy_refcounts               qcow2 version 3: marked dirty while it changes, checked after a crash

Exit status: 0 the mount answers; 1 usage or permission; 2 system error; 32 mount failure.`;

export const mountCommand = {
  command: 'mount <image> <mountpoint>',
  describe: 'Mount an image; its disk appears as the raw file MOUNTPOINT/disk.raw',
  builder: (yargs: Argv): Argv => {
    let program = yargs
      .positional('image', { type: 'string', demandOption: true, describe: 'the disk image (QED, qcow2, raw)' })
      .positional('mountpoint', {
        type: 'string',
        demandOption: true,
        describe: 'a directory; or a regular file, which then is the disk itself',
      });
    for (const [name, argument] of Object.entries(MOUNT_ARGUMENTS)) {
      if (name !== 'output') program = program.option(name, describe(argument));
    }
    return program
      .example('imgfuse mount disk.qed /mnt/img', 'read-write, in the background')
      .example('imgfuse mount disk.qed /mnt/img -o ro -f', 'read-only, in the foreground')
      .example('mount -t fuse.imgfuse disk.qed /mnt/img -o ro', 'the same through mount(8)')
      .epilogue(OPTIONS_HELP);
  },
  run: (args: ParsedMountArguments): Promise<number> => startMount(args),
};

function describe(argument: MountArgument): Options {
  return {
    type: argument.multiple === true ? 'array' : argument.type,
    describe: argument.description,
    ...(argument.short === undefined ? {} : { alias: argument.short }),
    ...(argument.type === 'string' ? { requiresArg: true } : {}),
    ...(argument.multiple === true ? { string: true } : {}),
    ...(argument.choices === undefined ? {} : { choices: argument.choices }),
  };
}
