// The Filesystem contract for the file of a partition, over both transports: it keeps its size, and shows nothing beside it.

import { afterEach, beforeEach, describe, test } from 'vitest';
import { fuseNativeAvailable } from '../../src/fuse/fuse-native-package.ts';
import { startServer, unmountBelow } from '../support/mount-server.ts';
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

describe.each(TRANSPORTS)('a partition over %s', (transport) => {
  for (const scenario of SCENARIOS) {
    test(scenario.name, async (context) => {
      requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
      if (transport === 'fuse-native') requireOrSkip(context, fuseNativeAvailable(), 'fuse-native and libfuse.so.2');
      await runScenario(
        scenario,
        (spec) => startServer('partition of qcow2', spec),
        { folder, transport },
        { ...CAPABILITIES[transport], resizes: false },
      );
    });
  }
});
