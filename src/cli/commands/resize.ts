// `imgfuse resize`: changes the virtual size, as qemu-img resize does; shrinking needs --shrink.

import { MAX_VIRTUAL_SIZE, roundUp, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { openDisk, parseSize } from '../../disk/index.ts';
import { closingAfter } from '../../errors/close.ts';
import { ImgfuseError } from '../../errors/index.ts';
import { type PasswordArguments, passwordOf } from '../../host/passwords.ts';
import { closedMarksDirectory } from '../../mounts/runtime-directory.ts';
import { type Command, QUIET } from '../command.ts';
import { ALLOW_BACKING, ANY_PARENT, directories, FORMAT, IMAGE_NAME, lockMode } from '../image-arguments.ts';
import { complain, type OutputMode, print, printJson } from '../output.ts';
import { KEY_EXCLUDES, KEY_OPTIONS, NO_LOCK } from '../shared-options.ts';

interface ResizeArguments extends PasswordArguments {
  readonly image: string;
  readonly size: string;
  readonly format?: string;
  readonly 'allow-backing'?: readonly string[];
  readonly 'any-parent'?: boolean;
  readonly 'no-lock'?: boolean;
  readonly shrink?: boolean;
  readonly quiet?: boolean;
  readonly output: OutputMode;
}

export const resizeCommand: Command = {
  name: 'resize',
  summary: 'Change the size of the disk',
  names: [
    IMAGE_NAME,
    { name: 'size', description: 'new size, or +SIZE, -SIZE relative to the present one (k, M, G, T, P, E)' },
  ],
  options: {
    format: FORMAT,
    'allow-backing': ALLOW_BACKING,
    'any-parent': ANY_PARENT,
    ...KEY_OPTIONS,
    shrink: { type: 'boolean', description: 'allow a smaller size: the data beyond it is lost' },
    'no-lock': NO_LOCK,
    quiet: QUIET,
  },
  excludes: KEY_EXCLUDES,
  examples: [
    ['imgfuse resize disk.qed +10G', ''],
    ['imgfuse resize --shrink disk.qed 5G', 'shrink partitions and file systems first'],
  ],
  run: resize,
};

function resize(args: ResizeArguments): number {
  const disk = openDisk(args.image, {
    readOnly: false,
    locks: lockMode(args),
    allowBacking: directories(args['allow-backing']),
    anyParent: args['any-parent'],
    closedMarks: closedMarksDirectory(),
    password: passwordOf(args),
    ...(args.format === undefined ? {} : { format: args.format }),
    log: complain,
  });
  const { before, after, isRounded } = closingAfter(
    () => [disk],
    () => {
      const before = disk.size();
      const asked = parseResize(args.size, before);
      const after = roundUp(asked, SECTOR_BYTES);
      if (after < before && args.shrink !== true) {
        throw new ImgfuseError(
          'usage',
          `${args.image} has ${before} bytes, ${after} are fewer: everything beyond would be lost; --shrink allows it`,
          { path: args.image },
        );
      }
      if (after !== before) disk.resize(after);
      return { before, after: disk.size(), isRounded: after !== asked };
    },
  );
  if (args.output === 'json') printJson({ filename: args.image, 'virtual-size': after, 'previous-size': before });
  else if (args.quiet !== true)
    print(isRounded ? `Image resized to ${after} bytes, which are whole sectors.` : 'Image resized.');
  return 0;
}

/** A size relative to the present one: "+1G" and "-1G" change it, "1G" sets it. */
export function parseResize(text: string, current: number): number {
  const sign = text[0];
  if (sign !== '+' && sign !== '-') return parseSize(text);
  if (!/^.\d/.test(text)) {
    throw new ImgfuseError('usage', `"${text}" is not a change of size; give a sign and a size, such as +10G`);
  }
  const delta = parseSize(text.slice(1));
  const size = sign === '+' ? current + delta : current - delta;
  if (size < 0) {
    throw new ImgfuseError(
      'usage',
      `the disk has ${current} bytes and cannot shrink by ${delta}; give a smaller number`,
    );
  }
  if (size > MAX_VIRTUAL_SIZE) {
    throw new ImgfuseError('limit', `the size ${size} is too large: imgfuse handles disks up to 8 PiB - 512 bytes`);
  }
  return size;
}
