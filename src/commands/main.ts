// From the arguments to a command. A mount goes the fast way, without yargs; everything else, help and complaints about
// arguments included, is yargs' (program.ts).

import { parseArgs } from 'node:util';
import { exactArguments } from './exact-arguments.ts';
import { EXIT_USAGE } from './exit-codes.ts';
import { pathKind } from './host-paths.ts';
import {
  COMPLETION_OPTION,
  DAEMON_COMMAND,
  MOUNT_ARGUMENTS,
  type MountRequest,
  parseMountArguments,
  USERS_COMMAND,
} from './mount-arguments.ts';
import { complain, complainAbout } from './output.ts';

/** The name that umount(8) looks for in /sbin; a link of that name to the program is the helper. */
const UMOUNT_HELPER_NAME = /(^|\/)umount\.(fuse\.)?imgfuse$/;

/** First arguments that are commands; what else has two names in it is a mount. */
const COMMANDS = [
  'mount',
  'unmount',
  'umount',
  'remount',
  'status',
  'create',
  'info',
  'check',
  'map',
  'resize',
  'completion',
  'help',
] as const;

/** What scripts/install.sh puts into the helper; not for people. */
const UMOUNT_HELPER_COMMAND = 'umount-helper';

/** @returns the exit code */
export async function main(nodeArguments: readonly string[], programPath: string): Promise<number> {
  try {
    const argv = exactArguments(nodeArguments);
    if (argv[0] === DAEMON_COMMAND) {
      const { runMountProcess } = await import('./mount-process.ts');
      return await runMountProcess(JSON.parse(argv[1] ?? '') as MountRequest);
    }
    if (argv[0] === USERS_COMMAND) {
      const { printProcesses } = await import('./mount-users.ts');
      return printProcesses(JSON.parse(argv[1] ?? '') as string);
    }
    if (argv[0] === UMOUNT_HELPER_COMMAND || UMOUNT_HELPER_NAME.test(programPath)) {
      const { umountHelper } = await import('./umount-helper.ts');
      return await umountHelper(argv[0] === UMOUNT_HELPER_COMMAND ? argv.slice(1) : argv);
    }
    if (isMount(argv)) return await mountOrExplain(argv);
    const { runProgram } = await import('./program.ts');
    return await runProgram(argv);
  } catch (error) {
    complainAbout(error);
    return EXIT_USAGE;
  }
}

function isCommand(word: string): boolean {
  return (COMMANDS as readonly string[]).includes(word);
}

/** `mount ...`, or the bare form: two names, of which the first is no command, or stands behind "--". */
function isMount(argv: readonly string[]): boolean {
  if (argv[0] === 'mount') return true;
  if (argv[0] === COMPLETION_OPTION) return false;
  // options of a mount may stand before its names, and some of them take the next argument
  const options = { options: MOUNT_ARGUMENTS, strict: false, allowPositionals: true, tokens: true } as const;
  const first = parseArgs({ args: [...argv], ...options }).tokens.find((token) => token.kind !== 'option');
  if (argv.length < 2 || first === undefined) return false;
  return first.kind === 'option-terminator' || !isCommand(first.value);
}

async function mountOrExplain(argv: readonly string[]): Promise<number> {
  const isBare = argv[0] !== 'mount';
  const rest = isBare ? argv : argv.slice(1);
  const parsed = parseMountArguments(rest);
  if (parsed === null) {
    const { runProgram } = await import('./program.ts');
    return runProgram(['mount', ...rest]);
  }
  if (isBare && !parsed.image.includes('/') && pathKind(parsed.image) === 'missing') {
    complain(`there is neither a command nor an image called "${parsed.image}"; "imgfuse --help" lists the commands`);
    return EXIT_USAGE;
  }
  const { startMount } = await import('./start-mount.ts');
  return startMount(parsed);
}
