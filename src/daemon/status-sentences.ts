// What the commands and the log of a mount say of its status in the same words. It loads nothing: status and unmount start fast.

import type { WaitingForSpace } from './workers/space-watch.ts';

/** What `share` means for programs that read from the mount. */
export const POSSIBLY_INCONSISTENT = 'shared with a writer, possibly inconsistent';

/** "2 requests wait for space on /srv since ..., because /srv/disk.qcow2 cannot grow" */
export function sentenceOfWaiting({ requests, since, file, 'file-system': place }: WaitingForSpace): string {
  const who = requests === 1 ? '1 request waits' : `${requests} requests wait`;
  return `${who} for space on ${place} since ${since}, because ${file} cannot grow`;
}
