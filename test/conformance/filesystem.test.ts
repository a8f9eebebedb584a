// The Filesystem contract over both transports, with the plain filesystem and with real disk images behind them.

import { afterEach, beforeEach, describe, test } from 'vitest';
import { fuseNativeAvailable } from '../../src/fuse/fuse-native-package.ts';
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

const EVERYWHERE: readonly ServedFilesystem[] = ['plain', 'raw', 'qed', 'qcow2', 'vdi'];
/** The transport makes no difference to a format: formats more show nothing new of fuse-native. */
const WITH_KERNEL: readonly ServedFilesystem[] = [...EVERYWHERE, 'vmdk', 'vpc', 'vhdx', 'parallels'];
const SUBJECTS = TRANSPORTS.flatMap((transport) =>
  (transport === 'kernel' ? WITH_KERNEL : EVERYWHERE).map((filesystem) => ({ transport, filesystem })),
);

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
