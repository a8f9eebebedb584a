// Runs the command that the arguments mean. A mount takes a fast path, without yargs and the other commands; all-commands.ts does
// the rest, including the help and the errors about arguments.

import type { MountRequest } from '../daemon/mount-request.ts';
import { EXIT_OK, EXIT_USAGE } from '../errors/exit-codes.ts';
import { processesInside, USERS_COMMAND } from '../mounts/processes-inside.ts';
import { chooseCommand } from './choose-command.ts';
import { exactArguments } from './exact-arguments.ts';
import {
  COMPLETION_OPTION,
  DAEMON_COMMAND,
  type ParsedMountArguments,
  parseMountArguments,
} from './mount-arguments.ts';
import { complainAbout, print } from './output.ts';

/** The name that umount(8) looks for in /sbin; a link of that name to the program is the helper. */
const UMOUNT_HELPER_NAME = /(^|\/)umount\.(fuse\.)?imgfuse$/;

/** The hidden command that scripts/install.sh writes into the helper. */
const UMOUNT_HELPER_COMMAND = 'umount-helper';

/** @returns the exit code */
export async function main(nodeArguments: readonly string[], programPath: string): Promise<number> {
  try {
    const argv = exactArguments(nodeArguments);
    if (argv[0] === DAEMON_COMMAND) {
      const request = JSON.parse(argv[1] ?? '') as MountRequest;
      const { startFirstThreads } = await import('../daemon/first-threads.ts');
      const threads = startFirstThreads();
      const { runMountProcess } = await import('../daemon/mount-process.ts');
      return await runMountProcess(request, null, threads);
    }
    if (argv[0] === USERS_COMMAND) {
      print(JSON.stringify(processesInside(JSON.parse(argv[1] ?? '') as string)));
      return EXIT_OK;
    }
    if (argv[0] === UMOUNT_HELPER_COMMAND || UMOUNT_HELPER_NAME.test(programPath)) {
      const { umountHelper } = await import('./commands/umount-helper.ts');
      return await umountHelper(argv[0] === UMOUNT_HELPER_COMMAND ? argv.slice(1) : argv);
    }
    const mount = plainMount(argv);
    if (mount !== null) {
      const { startMount } = await import('./start-mount.ts');
      return await startMount(mount);
    }
    const { quickCommand } = await import('./quick-commands.ts');
    const quick = await quickCommand(argv);
    if (quick !== null) return await quick();
    const { runProgram } = await import('./all-commands.ts');
    return await runProgram(argv);
  } catch (error) {
    complainAbout(error);
    return EXIT_USAGE;
  }
}

/** The arguments of a mount, if they have no fault; otherwise null, and all-commands.ts runs or explains them. */
function plainMount(argv: readonly string[]): ParsedMountArguments | null {
  if (argv[0] === COMPLETION_OPTION) return null;
  try {
    const { command, rest } = chooseCommand(argv);
    return command === 'mount' ? parseMountArguments(rest) : null;
  } catch {
    // all-commands.ts runs into the same error and can name other commands in the message
    return null;
  }
}
