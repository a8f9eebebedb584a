// Explains why a mount is no longer served although nobody unmounted it: the kernel has ended its connection. The mount stays in
// the mount table and answers ENOTCONN, so that nobody writes into the directory below; its record also stays and tells why.

import { answerTimeMs, connectionLimit, listMounts, requestTimeouts } from '../fuse/index.ts';
import { deviceOf } from '../mounts/mountpoint.ts';
import type { MountRecord } from '../mounts/runtime-directory.ts';
import { nativeAvailable } from '../native/index.ts';
import type { MountRequest } from './mount-request.ts';

/**
 * Limit for a request that fuse-native serves. Its one thread answers the next request, and SIGTERM, only after this one. The
 * limit is shared by all requests that wait for a silent server, so it does not add up.
 */
const NATIVE_ANSWER_MS = 60_000;

/** For the mount of this process: a connection keeps the limit that it started with. */
let known: { readonly seconds: number | null } | null = null;

/** Seconds that one request may take before the kernel ends the connection; null for no limit. */
function limitOf(request: Pick<MountRequest, 'transport'>): number | null {
  known ??= { seconds: connectionLimit(requestTimeouts(), isKernelTransport(request)) };
  return known.seconds;
}

function isKernelTransport({ transport }: Pick<MountRequest, 'transport'>): boolean {
  return transport === 'kernel' || (transport === 'auto' && nativeAvailable());
}

/** The time within which every request of a mount must be answered, if there is a limit. */
export function answerTimeOf(request: Pick<MountRequest, 'transport'>): number | undefined {
  const allowedMs = answerTimeMs(limitOf(request));
  return isKernelTransport(request) ? allowedMs : Math.min(allowedMs ?? Number.POSITIVE_INFINITY, NATIVE_ANSWER_MS);
}

/** Why a mount is no longer served; null if it was unmounted. */
export function describeLoss(record: MountRecord, request: Pick<MountRequest, 'transport'>): string | null {
  const { device, mountpoint } = record;
  if (device === undefined || !listMounts().some((mount) => deviceOf(mount) === device)) return null;
  const limit = limitOf(request);
  const late = limit === null ? '' : `a request took longer than ${limit} seconds (sysctl fs.fuse), or `;
  return `the kernel has ended the connection of ${mountpoint}: ${late}somebody aborted it (/sys/fs/fuse/connections)`;
}
