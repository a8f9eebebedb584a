// `imgfuse commit`: writes an overlay back into an image below it, as qemu-img commit does.
// Invariant: whatever ends it, the overlay over its base reads as before, and running it again completes it.

import { printable } from '../../bytes/printable.ts';
import { type CommitResult, type DiskCommit, openCommit } from '../../disk/index.ts';
import { EXIT_OK } from '../../errors/exit-codes.ts';
import { type PasswordArguments, passwordOf } from '../../host/passwords.ts';
import { closedMarksDirectory } from '../../mounts/runtime-directory.ts';
import { type Command, QUIET } from '../command.ts';
import { ALLOW_BACKING, ANY_PARENT, directories, FORMAT, lockMode } from '../image-arguments.ts';
import { runOpened } from '../long-work.ts';
import { complain, type OutputMode, print, printJson } from '../output.ts';
import { Progress } from '../progress.ts';
import { KEY_EXCLUDES, KEY_OPTIONS, NO_LOCK } from '../shared-options.ts';

interface CommitArguments extends PasswordArguments {
  readonly overlay: string;
  readonly format?: string;
  readonly base?: string;
  readonly keep?: boolean;
  readonly 'allow-backing'?: readonly string[];
  readonly 'any-parent'?: boolean;
  readonly 'no-lock'?: boolean;
  readonly quiet?: boolean;
  readonly output: OutputMode;
}

export const commitCommand: Command = {
  name: 'commit',
  summary: 'Write the changes in an overlay back into its base',
  names: [{ name: 'overlay', description: 'the image whose changes are written into the image below it' }],
  options: {
    format: FORMAT,
    base: {
      type: 'string',
      short: 'b',
      placeholder: 'BASE',
      description: 'another image of the backing chain to write into; implies -d. Default: the backing file',
    },
    keep: { type: 'boolean', short: 'd', description: 'leave the overlay as it is; default: it is empty afterwards' },
    'allow-backing': ALLOW_BACKING,
    'any-parent': ANY_PARENT,
    ...KEY_OPTIONS,
    'no-lock': NO_LOCK,
    quiet: QUIET,
  },
  excludes: KEY_EXCLUDES,
  examples: [
    ['imgfuse commit changes.qcow2', 'the base has the changes then, and the overlay is empty'],
    ['imgfuse commit -d changes.qcow2', 'the overlay stays as it is'],
  ],
  epilogue:
    'The base grows if the overlay is larger. Every other overlay on the base shows a mixture of two disks afterwards: commit or ' +
    'rebase those first. The overlay is emptied once everything is durable in the base. Interrupted or cut off at any point, the ' +
    'overlay over its base reads as before; run the command again to complete it.',
  run: commit,
};

async function commit(args: CommitArguments): Promise<number> {
  const { overlay } = args;
  const opened = openCommit(overlay, {
    format: args.format,
    base: args.base,
    isKept: args.keep === true,
    allowBacking: directories(args['allow-backing']),
    anyParent: args['any-parent'],
    locks: lockMode(args),
    password: passwordOf(args),
    closedMarks: closedMarksDirectory(),
    log: complain,
  });
  const outcome = await runOpened(opened, new Progress('committing'));
  if ('interrupted' in outcome) {
    complain('interrupted: nothing is lost; run the same command again to complete it');
    return outcome.interrupted;
  }
  report(args, opened, outcome.result);
  return EXIT_OK;
}

function report(args: CommitArguments, { base, between, isKept, size }: DiskCommit, result: CommitResult): void {
  const { overlay } = args;
  if (args.output === 'json') {
    printJson({
      filename: overlay,
      base,
      'virtual-size': size,
      'data-size': result.dataBytes,
      'zero-size': result.zeroBytes,
      'previous-base-size': result.grownFrom,
      emptied: !isKept,
    });
    return;
  }
  if (args.quiet === true) return;
  print('Image committed.');
  const state = isKept ? `${overlay} is as it was` : `${overlay} is empty`;
  const mixed = between === 0 ? '' : ', and the images between the two must not be used any more';
  print(
    printable(
      `${base} has the changes, ${state}; other overlays on ${base} show a mixture now, or are refused${mixed}`,
    ),
  );
}
