// `imgfuse resize`: changes the virtual size, as qemu-img resize does; shrinking has to be asked for by name.

import type { Argv } from 'yargs';
import { openDisk } from '../disk/index.ts';
import { closingAfter } from '../errors/close.ts';
import { ImgfuseError } from '../errors/index.ts';
import { ALLOW_BACKING, directories, FORMAT, lockMode, NO_LOCK } from './image-arguments.ts';
import { complain, type OutputMode, print, printJson } from './output.ts';
import { KEY_OPTIONS, type PasswordArguments, passwordOf } from './passwords.ts';
import { parseResize } from './size.ts';

interface ResizeArguments extends PasswordArguments {
  readonly image: string;
  readonly size: string;
  readonly format?: string;
  readonly 'allow-backing'?: readonly string[];
  readonly 'no-lock'?: boolean;
  readonly shrink: boolean;
  readonly quiet: boolean;
  readonly output: OutputMode;
}

export const resizeCommand = {
  command: 'resize <image> <size>',
  describe: 'Change the size of the disk',
  builder: (yargs: Argv): Argv =>
    yargs
      .positional('image', { type: 'string', demandOption: true, describe: 'the disk image' })
      .positional('size', {
        type: 'string',
        demandOption: true,
        describe: 'new size, or +SIZE, -SIZE relative to the present one (k, M, G, T, P, E)',
      })
      .option('format', FORMAT)
      .option('allow-backing', ALLOW_BACKING)
      .options(KEY_OPTIONS)
      .option('shrink', {
        type: 'boolean',
        default: false,
        describe: 'allow a smaller size: what lies beyond it is lost',
      })
      .option('no-lock', NO_LOCK)
      .option('quiet', { alias: 'q', type: 'boolean', default: false, describe: 'print nothing' })
      .example('imgfuse resize disk.qed +10G', '')
      .example('imgfuse resize --shrink disk.qed 5G', 'shrink partitions and file systems first'),
  run: resize,
};

function resize(args: ResizeArguments): number {
  const disk = openDisk(args.image, {
    readOnly: false,
    locks: lockMode(args),
    allowBacking: directories(args['allow-backing']),
    password: passwordOf(args),
    ...(args.format === undefined ? {} : { format: args.format }),
    log: complain,
  });
  const { before, after } = closingAfter(
    () => [disk],
    () => {
      const before = disk.size();
      const after = parseResize(args.size, before);
      if (after < before && !args.shrink) {
        throw new ImgfuseError(
          'usage',
          `${args.image} has ${before} bytes, ${after} are fewer: everything beyond would be lost; --shrink allows it`,
          { path: args.image },
        );
      }
      if (after !== before) disk.resize(after);
      return { before, after };
    },
  );
  if (args.output === 'json') printJson({ filename: args.image, 'virtual-size': after, 'previous-size': before });
  else if (!args.quiet) print('Image resized.');
  return 0;
}
