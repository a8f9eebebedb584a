// The threads that every mount process begins with. They take as long to start as the process itself, so they are started before
// it loads the rest of its own modules; this file imports nothing that is not needed for that.

import { DiskKeeper } from './keeper/disk-keeper.ts';
import { type WarmThread, warmThread } from './workers/threads.ts';

export interface FirstThreads {
  readonly keeper: DiskKeeper;
  /** becomes the first worker */
  readonly first: WarmThread;
}

/** Starts them; they load their modules while the caller goes on, which owns them. */
export function startFirstThreads(): FirstThreads {
  return { keeper: new DiskKeeper(), first: warmThread() };
}
