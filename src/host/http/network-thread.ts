// Entry of the network thread, of which a process has one for all remote files. It never touches an image; it opens URLs, fills
// block caches, and answers the opener through a port, because the opener sleeps on a futex meanwhile.

import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import type { Dispatcher } from 'undici';
import { closeAll } from '../../errors/close.ts';
import type { ErrorKind } from '../../errors/index.ts';
import type { BlockCacheState } from '../shared-file.ts';
import { ownThread } from '../thread-life.ts';
import { createBlockCacheState } from './block-cache.ts';
import { BlockLoader } from './block-loader.ts';
import { fetchErrorOf } from './fetch-error.ts';
import type { HttpLimits } from './limits.ts';
import { createDispatcher, RangeClient } from './range-client.ts';

/** Messages to the network thread. */
export type NetworkRequest =
  | {
      readonly type: 'open';
      readonly id: number;
      readonly url: string;
      readonly allowed: readonly string[];
      readonly limits: HttpLimits;
      readonly port: MessagePort;
      /** one word: 1 when the answer is in the port */
      readonly answered: Int32Array;
    }
  | { readonly type: 'close'; readonly id: number };

export type OpenAnswer = { readonly state: BlockCacheState } | { readonly kind: ErrorKind; readonly reason: string };

/** Start data of the network thread: a place for the number of its task, 0 until it runs. */
export interface NetworkData {
  readonly task: Int32Array;
}

const self = ownThread();
const loaders = new Map<number, BlockLoader>();
let dispatcher: Dispatcher | null = null;

async function open(request: NetworkRequest & { type: 'open' }): Promise<OpenAnswer> {
  const { id, limits } = request;
  dispatcher ??= createDispatcher(limits);
  const allowed = request.allowed.map((place) => new URL(place));
  const client = new RangeClient(new URL(request.url), allowed, limits, dispatcher);
  try {
    const { length, head } = await client.open();
    const silenceMs = 2 * (limits.giveUpMs + limits.stallMs + limits.connectMs);
    const state = createBlockCacheState({ ...limits, length, silenceMs, loader: self });
    const loader = new BlockLoader(state, request.url, client, limits);
    loader.seed(head);
    loaders.set(id, loader);
    void loader.serve();
    return { state };
  } catch (error) {
    const { kind, message } = fetchErrorOf(error);
    return { kind, reason: message };
  }
}

Atomics.store((workerData as NetworkData).task, 0, self.task ?? 0);

parentPort?.on('message', (request: NetworkRequest) => {
  if (request.type === 'close') {
    loaders.get(request.id)?.close();
    loaders.delete(request.id);
    return;
  }
  void open(request).then((answer) => {
    request.port.postMessage(answer);
    Atomics.store(request.answered, 0, 1);
    Atomics.notify(request.answered, 0);
  });
});

// so that readers learn it at once; a thread that runs out of memory does not get here
process.on('exit', () => {
  closeAll(loaders.values());
});
