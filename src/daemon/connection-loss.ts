// A mount that is served no more although nobody unmounted it: the kernel has ended its connection. It stays in the mount table
// and answers ENOTCONN, so that nobody writes into the directory below; its record stays as well and tells why.

import { answerTimeMs, connectionLimit, listMounts, requestTimeouts } from '../fuse/index.ts';
import { deviceOf } from '../mounts/mountpoint.ts';
import type { MountRecord } from '../mounts/runtime-directory.ts';
import { nativeAvailable } from '../native/index.ts';
import type { MountRequest } from './mount-request.ts';

/**
 * Of a request that fuse-native serves: its one thread answers the next request, and SIGTERM, only when this one is done. With a
 * limit, requests that queue up behind a silent server wait that long all together, without one each.
 */
const NATIVE_ANSWER_MS = 60_000;

/** Of the mount of this process: a connection keeps the limit that it began with. */
let known: { readonly seconds: number | null } | null = null;

/** After how many seconds of one request the kernel ends the connection; null: never. */
function limitOf(request: Pick<MountRequest, 'transport'>): number | null {
  known ??= { seconds: connectionLimit(requestTimeouts(), isKernelTransport(request)) };
  return known.seconds;
}

function isKernelTransport({ transport }: Pick<MountRequest, 'transport'>): boolean {
  return transport === 'kernel' || (transport === 'auto' && nativeAvailable());
}

/** Within what time every request of a mount has to be answered, if there is a limit. */
export function answerTimeOf(request: Pick<MountRequest, 'transport'>): number | undefined {
  const allowedMs = answerTimeMs(limitOf(request));
  return isKernelTransport(request) ? allowedMs : Math.min(allowedMs ?? Number.POSITIVE_INFINITY, NATIVE_ANSWER_MS);
}

/** Why a mount is served no more; null when it was unmounted. */
export function describeLoss(record: MountRecord, request: Pick<MountRequest, 'transport'>): string | null {
  const { device, mountpoint } = record;
  if (device === undefined || !listMounts().some((mount) => deviceOf(mount) === device)) return null;
  const limit = limitOf(request);
  const late = limit === null ? '' : `a request took longer than ${limit} seconds (sysctl fs.fuse), or `;
  return `the kernel has ended the connection of ${mountpoint}: ${late}somebody aborted it (/sys/fs/fuse/connections)`;
}
