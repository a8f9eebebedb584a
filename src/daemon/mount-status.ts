// The status of one mount: the mount process sends it over the control socket, and `status` prints it.

import { formatSize } from '../bytes/format-size.ts';
import type { NetworkStatus, OpenStep, VirtualDisk } from '../disk/index.ts';
import type { GuestStatus } from './inspection/guest-status.ts';
import type { SnapshotsStatus } from './inspection/snapshot-status.ts';
import type { FullPolicy, MountRequest } from './mount-request.ts';
import type { Phase } from './mount-state.ts';
import { type OverlayReport, overlayReport } from './overlay-report.ts';
import type { Serving } from './serving.ts';
import { POSSIBLY_INCONSISTENT, sentenceOfWaiting } from './status-sentences.ts';
import type { WaitingForSpace } from './workers/space-watch.ts';

/** Keys are spelled as in qemu-img, if it has them. */
export interface MountStatus extends GuestStatus, SnapshotsStatus {
  readonly image: string;
  readonly mountpoint: string;
  readonly format: string;
  readonly transport: string;
  readonly pid: number;
  readonly workers: number;
  readonly 'read-only': boolean;
  /** another program may write to the image at the same time, so the data may be inconsistent */
  readonly shared: boolean;
  readonly 'dirty-flag': boolean;
  /** qcow2 version 3: the dirty flag is set while the image changes */
  readonly 'lazy-refcounts'?: boolean;
  /** the one that the mountpoint shows; absent: it shows the whole disk */
  readonly partition?: number;
  /** of the whole disk */
  readonly 'virtual-size': number;
  readonly 'allocated-size': number;
  readonly 'cluster-size': number;
  /** path of the external data file, if there is one */
  readonly 'data-file'?: string;
  /** the images below, nearest first */
  readonly 'backing-chain'?: readonly string[];
  /** copy-on-read; stopped: a copy failed, and the log says why */
  readonly 'copy-on-read': 'on' | 'off' | 'stopped';
  /** the file that takes the changes; absent: the image itself does */
  readonly overlay?: OverlayReport;
  /** bytes of the disk that need no backing file, and those that do; absent: no backing file, or too many tables to count */
  readonly 'local-size'?: number;
  readonly 'backing-size'?: number;
  /** for each image that is read over HTTP: requests, bytes, retries, ranges that failed */
  readonly network?: readonly NetworkStatus[];
  /** what becomes of a write for which the host has no space */
  readonly full: FullPolicy;
  /** requests that wait for space on the host; absent: none */
  readonly 'waiting-for-space'?: WaitingForSpace;
  /** requests served, by operation of the FUSE protocol */
  readonly requests: Readonly<Record<string, number>>;
  /** why the image became read-only; null if it did not */
  readonly failure: string | null;
  readonly log: string | null;
}

/** @param snapshots which commands that only read a status do without: finding their names takes modules of its own */
export function mountStatus(
  request: MountRequest,
  disk: VirtualDisk,
  serving: Serving,
  snapshots: SnapshotsStatus,
  shared: boolean,
  log: string | null,
): MountStatus {
  const status = disk.status();
  const overlay = overlayReport(request, status.allocatedBytes, status.isBackingWritable);
  const waiting = serving.space?.status() ?? null;
  return {
    image: request.image,
    mountpoint: serving.mountpoint,
    format: status.format,
    transport: serving.transport,
    pid: process.pid,
    workers: serving.workers,
    'read-only': status.readOnly,
    shared,
    'dirty-flag': status.dirty,
    ...(status.lazyRefcounts === null ? {} : { 'lazy-refcounts': status.lazyRefcounts }),
    ...(request.partition === undefined ? {} : { partition: request.partition }),
    'virtual-size': status.virtualSize,
    'allocated-size': status.allocatedBytes,
    'cluster-size': status.clusterSize,
    ...(status.dataFile === null ? {} : { 'data-file': status.dataFile }),
    ...(status.backing.length === 0 ? {} : { 'backing-chain': status.backing }),
    'copy-on-read': status.copyOnRead ?? 'off',
    ...(status.share === null ? {} : { 'local-size': status.share.local, 'backing-size': status.share.below }),
    ...(status.network.length === 0 ? {} : { network: status.network }),
    ...(overlay === undefined ? {} : { overlay }),
    full: request.full,
    ...(waiting === null ? {} : { 'waiting-for-space': waiting }),
    ...snapshots,
    requests: serving.requests(),
    failure: status.failure,
    log,
  };
}

/** The status while the image is being opened or closed. It does not use the disk, which may not be open. */
export interface UnservedStatus {
  readonly image: string;
  readonly mountpoint: string;
  readonly pid: number;
  readonly state: 'opening' | 'closing';
  /** the current step, which may take long */
  readonly doing?: string;
  readonly log: string | null;
}

export function unservedStatus(
  { image, mountpoint }: MountRequest,
  phase: Phase,
  step: OpenStep | null,
  log: string | null,
): UnservedStatus {
  const state = phase === 'opening' || phase === 'mounting' ? 'opening' : 'closing';
  return { image, mountpoint, pid: process.pid, state, ...(step === null ? {} : { doing: describeStep(step) }), log };
}

/** "checking disk.qcow2, 43%" */
export function describeStep({ doing, fraction }: OpenStep): string {
  return fraction === undefined ? doing : `${doing}, ${Math.floor(fraction * 100)}%`;
}

/** What the process of a mount is doing, in one line, unless it simply serves. */
export function describePhase({ image, mountpoint }: MountRequest, phase: Phase, step: OpenStep | null): string {
  const doing = step === null ? '' : ` (${describeStep(step)})`;
  return {
    opening: `${image} is being opened${doing}`,
    mounting: `${image} is being mounted at ${mountpoint}`,
    serving: `${image} is mounted at ${mountpoint}${doing}`,
    unmounting: `${mountpoint} is being unmounted`,
    waiting: `${mountpoint} is detached, and ${image} is closed when its last user ends`,
    draining: `${mountpoint} is unmounted, and its last requests are being answered`,
    leaving: `${image} is closed when the requests in hand are done`,
    closing: `${image} is being written and closed; ending this process now would leave it unclean`,
    rescuing: `what was written to ${image} is being saved after an internal error`,
    closed: `${image} is closed`,
  }[phase];
}

function describeWaiting({ 'waiting-for-space': waiting }: MountStatus): string {
  return waiting === undefined ? '' : `; ${sentenceOfWaiting(waiting)}`;
}

/** One line, for SIGUSR1 and the log. */
export function statusLine(status: MountStatus): string {
  const requests = Object.entries(status.requests)
    .filter(([, count]) => count > 0)
    .map(([name, count]) => `${name} ${count}`)
    .join(', ');
  return (
    `${status.image} at ${status.mountpoint}: ${status.format}, ${status['read-only'] ? 'read-only' : 'read-write'}${status.shared ? ` (${POSSIBLY_INCONSISTENT})` : ''}, ` +
    `${status['dirty-flag'] ? 'dirty' : 'clean'}, ${formatSize(status['allocated-size'])} of ` +
    `${formatSize(status['virtual-size'])} allocated; ${requests === '' ? 'no requests' : requests}` +
    `${describeWaiting(status)}${status.failure === null ? '' : `; FAILED: ${status.failure}`}`
  );
}
