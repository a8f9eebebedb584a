// A mount that is served no more although nobody unmounted it: the kernel has ended its connection. It stays in the mount table
// and answers ENOTCONN, so that nobody writes into the directory below; its record stays as well and tells why.

import { answerTimeMs, connectionLimit, listMounts, requestTimeouts } from '../fuse/index.ts';
import { nativeAvailable } from '../native/index.ts';
import type { MountRequest } from './mount-arguments.ts';
import { deviceOf } from './mountpoint.ts';
import type { MountRecord } from './runtime-directory.ts';

/** Of the mount of this process: a connection keeps the limit that it began with. */
let known: { readonly seconds: number | null } | null = null;

/** After how many seconds of one request the kernel ends the connection; null: never. */
function limitOf({ transport }: Pick<MountRequest, 'transport'>): number | null {
  const isKernel = transport === 'kernel' || (transport === 'auto' && nativeAvailable());
  known ??= { seconds: connectionLimit(requestTimeouts(), isKernel) };
  return known.seconds;
}

/** Within what time every request of a mount has to be answered, if there is a limit. */
export function answerTimeOf(request: Pick<MountRequest, 'transport'>): number | undefined {
  return answerTimeMs(limitOf(request));
}

/** Why a mount is served no more; null when it was unmounted. */
export function describeLoss(record: MountRecord, request: Pick<MountRequest, 'transport'>): string | null {
  const { device, mountpoint } = record;
  if (device === undefined || !listMounts().some((mount) => deviceOf(mount) === device)) return null;
  const limit = limitOf(request);
  const late = limit === null ? '' : `a request took longer than ${limit} seconds (sysctl fs.fuse), or `;
  return `the kernel has ended the connection of ${mountpoint}: ${late}somebody aborted it (/sys/fs/fuse/connections)`;
}
