// The Filesystem contract over both transports, with the plain filesystem and with real disk images behind them.

import { afterEach, beforeEach, describe, test } from 'vitest';
import { fuseNativeAvailable } from '../../src/fuse/fuse-native-package.ts';
import { drawnFormats } from '../support/drawn-rows.ts';
import { type ServedFilesystem, startServer, unmountBelow } from '../support/mount-server.ts';
import { canMountAsRoot, requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';
import { CAPABILITIES, runScenario, SCENARIOS, TRANSPORTS } from './filesystem-scenarios.ts';

let folder: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
});
afterEach(() => {
  unmountBelow(folder);
  removeTemporaryDirectory(folder);
});

const FORMATS: readonly ServedFilesystem[] = ['raw', 'qed', 'qcow2', 'vdi', 'vmdk', 'vpc', 'vhdx', 'parallels'];
/** The transport makes no difference to a format: more of them show nothing new of fuse-native. */
const SUBJECTS = TRANSPORTS.flatMap((transport) => {
  const formats = transport === 'kernel' ? drawnFormats(FORMATS) : ['qcow2' as const];
  return (['plain', ...formats] as const).map((filesystem) => ({ transport, filesystem }));
});

describe.each(SUBJECTS)('$filesystem over $transport', ({ transport, filesystem }) => {
  for (const scenario of SCENARIOS) {
    test(scenario.name, async (context) => {
      requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
      if (transport === 'fuse-native') requireOrSkip(context, fuseNativeAvailable(), 'fuse-native and libfuse.so.2');
      await runScenario(
        scenario,
        (spec) => startServer(filesystem, spec),
        { folder, transport },
        CAPABILITIES[transport],
      );
    });
  }
});
