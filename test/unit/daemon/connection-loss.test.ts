// How long a request may wait for the server of a backing file. That requests in a queue share that time is tested where they
// wait: test/unit/host/http/http-file.test.ts.

import { expect, test } from 'vitest';
import { answerTimeOf } from '../../../src/daemon/connection-loss.ts';

test('no request of fuse-native waits for more than a minute, because its one thread answers signals as well', () => {
  expect(answerTimeOf({ transport: 'fuse-native' })).toBeLessThanOrEqual(60_000);
});
