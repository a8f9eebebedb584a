// The helper that umount(8) runs as /sbin/umount.fuse.imgfuse {directory|device} [-flnrv] [-N ns] [-t type].
// It unmounts with the system call, because umount(8) would run the helper again.

import { EXIT_USAGE } from '../../errors/exit-codes.ts';
import { complain } from '../output.ts';
import { unmount } from './unmount.ts';

export async function umountHelper(argv: readonly string[]): Promise<number> {
  const targets: string[] = [];
  let lazy = false;
  let verbose = false;
  for (let index = 0; index < argv.length; index++) {
    const argument = argv[index]!;
    if (argument === '-t') {
      index++;
    } else if (argument === '-N') {
      complain(
        `-N is not offered; enter the namespace first: nsenter --mount=... imgfuse unmount ${targets[0] ?? 'DIR'}`,
      );
      return EXIT_USAGE;
    } else if (/^-[flnrv]+$/.test(argument)) {
      // -n and -r mean nothing for FUSE; -f would drop requests of a live server, and a dead server does not need it
      lazy ||= argument.includes('l');
      verbose ||= argument.includes('v');
    } else if (argument.startsWith('-')) {
      complain(`umount.fuse.imgfuse has no option ${argument}; it takes DIR [-flnrv] [-t type]`);
      return EXIT_USAGE;
    } else {
      targets.push(argument);
    }
  }
  const [target, ...rest] = targets;
  if (target === undefined || rest.length > 0) {
    complain('usage: umount.fuse.imgfuse DIR [-flnrv] [-t type]');
    return EXIT_USAGE;
  }
  // umount -l returns at once, even if the mount is in use
  return unmount(target, { lazy, patient: !lazy, output: 'human', quiet: !verbose });
}
