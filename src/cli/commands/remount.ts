// `imgfuse remount`: hands an image over from or to another program (live migration) without unmounting it.
// Invariant: exit code 0 means that the mount has the requested mode, and that nothing went wrong.

import { printable, shellQuote } from '../../bytes/printable.ts';
import { ControlClient } from '../../daemon/control-socket.ts';
import { changedFile } from '../../daemon/overlay-report.ts';
import { EXIT_MOUNT, EXIT_OK } from '../../errors/exit-codes.ts';
import { ImgfuseError } from '../../errors/index.ts';
import { processStartTime } from '../../host/processes.ts';
import { findTarget } from '../../mounts/target.ts';
import { type Command, QUIET, TARGET_NAME } from '../command.ts';
import { complain, type OutputMode, print, printJson } from '../output.ts';

interface RemountArguments {
  readonly target: string;
  readonly options: readonly string[];
  readonly quiet?: boolean;
  readonly output: OutputMode;
}

export const remountCommand: Command = {
  name: 'remount',
  summary: 'Take over an image that was mounted with ro,share, or give it away',
  names: [TARGET_NAME],
  options: {
    options: {
      type: 'string',
      short: 'o',
      multiple: true,
      required: true,
      placeholder: 'rw|ro',
      description: 'rw: take it over; ro: give it away',
    },
    quiet: QUIET,
  },
  examples: [
    ['imgfuse mount -o ro,share disk.qcow2 /mnt/img', 'while a virtual machine still writes it'],
    ['imgfuse remount -o rw /mnt/img', 'once that has let go of it'],
    ['imgfuse remount -o ro /mnt/img', 'flushes it, marks it clean and gives up its locks'],
  ],
  epilogue:
    'rw takes the locks, opens the image anew (checking it if it was not closed clean) and drops what was cached; when ' +
    'that fails, the mount goes on read-only as before. ro needs that nobody has the disk open for writing. The mount ' +
    'and open files stay.\n\nExit status: 0 done; 1 usage; 32 not done, or the image was not closed clean.',
  run: remount,
};

async function remount(args: RemountArguments): Promise<number> {
  const readOnly = wantsReadOnly(args.options);
  const { mountpoint, record } = findTarget(args.target);
  const client = record?.alive === true ? await ControlClient.connect(record.socketPath) : null;
  if (client === null) {
    const hasEnded = record !== null && processStartTime(record.pid) !== record.processStart;
    complain(
      hasEnded
        ? `${mountpoint} is dead, its process ${record.pid} has ended; run "imgfuse unmount ${shellQuote(mountpoint)}"`
        : `the process that serves ${mountpoint} could not be asked; is it another user's?`,
    );
    return EXIT_MOUNT;
  }
  const result = await client.remount(readOnly);
  client.close();
  const error = result === null ? `the process that serves ${mountpoint} ended before it answered` : result.error;
  const mode = readOnly ? 'read-only' : 'read-write';
  if (args.output === 'json') {
    printJson({ mountpoint, image: record?.image, remounted: result?.remounted === true, error });
  } else if (error === undefined && args.quiet !== true) {
    print(printable(`${record === null ? mountpoint : changedFile(record)} is ${mode} at ${mountpoint}`));
  }
  if (error === undefined) return EXIT_OK;
  const state = result?.remounted === true ? `${mountpoint} is ${mode}, but` : `${mountpoint} stays as it was`;
  complain(result === null ? error : `${state}: ${error}`);
  return EXIT_MOUNT;
}

function wantsReadOnly(lists: readonly string[]): boolean {
  const options = lists.flatMap((list) => list.split(',')).filter((option) => option !== '' && option !== 'share');
  const wrong = options.find((option) => option !== 'ro' && option !== 'rw');
  const last = options.at(-1);
  if (wrong !== undefined || last === undefined) {
    throw new ImgfuseError('usage', `remount takes -o rw or -o ro, and not "${wrong ?? lists.join(',')}"`);
  }
  return last === 'ro';
}
