// A mount from its parsed arguments: in this process, or in one of its own that outlives the terminal.

import { mountExitCode } from '../errors/exit-codes.ts';
import { assertLimits } from '../host/process-limits.ts';
import { mountRequest, type ParsedMountArguments } from './mount-arguments.ts';
import { complainAbout } from './output.ts';

/** Says what went wrong, if something did. @returns the exit code of mount(8) */
export async function startMount(parsed: ParsedMountArguments): Promise<number> {
  try {
    const request = mountRequest(parsed);
    assertLimits(request.workers);
    if (request.foreground) {
      const { runMountProcess } = await import('./mount-process.ts');
      return await runMountProcess(request);
    }
    const { spawnMountProcess } = await import('./daemon.ts');
    return await spawnMountProcess(request);
  } catch (error) {
    complainAbout(error);
    return mountExitCode(error);
  }
}
