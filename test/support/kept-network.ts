// Keeps the network thread of this process while the tests of a file run: it ends with the last file that is open on a server, and its
// start takes longer than most tests.

import { afterAll, beforeAll } from 'vitest';
import type { HostFile } from '../../src/host/host-file.ts';
import { HttpHostFile } from '../../src/host/http/http-file.ts';
import { RangeServer } from './range-server.ts';

/** At the top of a test file. */
export function keepNetworkThread(): void {
  let server: RangeServer;
  let kept: HostFile;
  beforeAll(() => {
    server = new RangeServer(Buffer.alloc(512));
    kept = HttpHostFile.open(`${server.origin}/kept`);
  });
  afterAll(async () => {
    kept.close();
    await server.close();
  });
}
