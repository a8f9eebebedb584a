// `imgfuse rebase`: gives an image another backing file, as qemu-img rebase does.
// Invariant: without -u the disk shows the same at every moment, whatever ends the command; running it again completes it.

import { printable } from '../../bytes/printable.ts';
import { type CopyResult, type DiskRebase, openRebase } from '../../disk/index.ts';
import { EXIT_OK } from '../../errors/exit-codes.ts';
import { type PasswordArguments, passwordOf } from '../../host/passwords.ts';
import { closedMarksDirectory } from '../../mounts/runtime-directory.ts';
import { type Command, QUIET } from '../command.ts';
import { ALLOW_BACKING, ANY_PARENT, directories, FORMAT, IMAGE_NAME, lockMode } from '../image-arguments.ts';
import { runOpened } from '../long-work.ts';
import { complain, type OutputMode, print, printJson } from '../output.ts';
import { Progress } from '../progress.ts';
import { KEY_EXCLUDES, KEY_OPTIONS, NO_LOCK } from '../shared-options.ts';

interface RebaseArguments extends PasswordArguments {
  readonly image: string;
  readonly backing: string;
  readonly 'backing-format'?: string;
  readonly format?: string;
  readonly unsafe?: boolean;
  readonly 'allow-backing'?: readonly string[];
  readonly 'any-parent'?: boolean;
  readonly 'no-lock'?: boolean;
  readonly quiet?: boolean;
  readonly output: OutputMode;
}

export const rebaseCommand: Command = {
  name: 'rebase',
  summary: 'Give an image another backing file, or none',
  names: [IMAGE_NAME],
  options: {
    backing: {
      type: 'string',
      short: 'b',
      required: true,
      mayBeEmpty: true,
      placeholder: 'BACKING',
      description: "the new backing file, relative to the image's directory; an empty string: none",
    },
    'backing-format': { ...FORMAT, short: 'F', description: 'its format; default: by its content, but never raw' },
    unsafe: {
      type: 'boolean',
      short: 'u',
      description: 'only change the name: for a backing file that was moved, or that is known to be the same',
    },
    format: FORMAT,
    'allow-backing': ALLOW_BACKING,
    'any-parent': ANY_PARENT,
    ...KEY_OPTIONS,
    'no-lock': NO_LOCK,
    quiet: QUIET,
  },
  excludes: KEY_EXCLUDES,
  examples: [
    ['imgfuse rebase -b new.qcow2 disk.qcow2', 'what differs between the two bases is copied into disk.qcow2'],
    ["imgfuse rebase -b '' disk.qcow2", 'everything is copied; no backing file is needed any more'],
    ['imgfuse rebase -u -b /new/place/base.qcow2 disk.qcow2', 'the base was moved'],
  ],
  epilogue:
    'Without -u the disk shows the same before, meanwhile and after: an interruption or a crash at any point loses nothing, and ' +
    'the same command completes it. With -u nothing is compared, and a wrong backing file makes the disk a mixture of two.',
  run: rebase,
};

async function rebase(args: RebaseArguments): Promise<number> {
  const opened = openRebase(args.image, {
    backing: args.backing,
    backingFormat: args['backing-format'],
    isUnsafe: args.unsafe === true,
    format: args.format,
    allowBacking: directories(args['allow-backing']),
    anyParent: args['any-parent'],
    locks: lockMode(args),
    password: passwordOf(args),
    closedMarks: closedMarksDirectory(),
    log: complain,
  });
  const outcome = await runOpened(opened, new Progress('rebasing'));
  if ('interrupted' in outcome) {
    complain(`interrupted: ${args.image} has its old backing file; run the same command again to complete it`);
    return outcome.interrupted;
  }
  report(args, opened, outcome.result);
  return EXIT_OK;
}

function report({ image, output, quiet }: RebaseArguments, { reference }: DiskRebase, result: CopyResult): void {
  if (output === 'json') {
    printJson({
      filename: image,
      'backing-filename': reference?.name,
      'backing-filename-format': reference?.format,
      'data-size': result.dataBytes,
      'zero-size': result.zeroBytes,
    });
  } else if (quiet !== true) {
    const now = reference === null ? 'has no backing file any more' : `has the backing file ${reference.name} now`;
    print(printable(`Image rebased: ${image} ${now}.`));
  }
}
