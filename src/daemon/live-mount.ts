// Turns an open disk into a mount that answers: mounts it, serves it, records it. Invariant: mountDisk() returns a mount that
// answers and that `status` and `unmount` find, or it throws and leaves no mount and no running thread.

import { setTimeout as delay } from 'node:timers/promises';
import type { OpenDiskOptions } from '../disk/index.ts';
import { ImgfuseError } from '../errors/index.ts';
import { unmountPath } from '../fuse/index.ts';
import { canonicalPath } from '../host/canonical-path.ts';
import { processStartTime } from '../host/processes.ts';
import { deviceAt } from '../mounts/mountpoint.ts';
import { type MountRecord, type PreparedFiles, writeRecord } from '../mounts/runtime-directory.ts';
import { forgetForUmount, noteForUmount } from '../mounts/umount-note.ts';
import { answerTimeOf } from './connection-loss.ts';
import type { KeptDisk } from './keeper/disk-keeper.ts';
import type { Log } from './log.ts';
import { abort } from './mount-end.ts';
import { type MountRequest, type OverlayRequest, servingThreads } from './mount-request.ts';
import { changedFile } from './overlay-report.ts';
import { writePidFile } from './pid-file.ts';
import { type Serving, type ServingEvents, startServing } from './serving.ts';
import type { ServingWords } from './workers/serving-words.ts';
import type { WarmThread } from './workers/threads.ts';

/** Limit for the threads to end after a start that failed. */
const UNDO_MS = 5000;

export interface LiveMount {
  readonly serving: Serving;
  /** replaced if the mount changes between read-only and read-write */
  record: MountRecord;
}

/** The parts of a mount process that exist before its image is open. */
export interface MountParts {
  readonly files: PreparedFiles;
  readonly log: Log;
  readonly isDaemon: boolean;
  /** becomes the first worker; the caller still owns it if the start fails */
  readonly first: WarmThread;
}

/** @throws ImgfuseError why it cannot be mounted */
export async function mountDisk(
  disk: KeptDisk,
  request: MountRequest,
  words: ServingWords,
  parts: MountParts,
  events: ServingEvents,
): Promise<LiveMount> {
  const { files, first, log } = parts;
  const serving = await startServing(disk, request, words, first, log, events);
  try {
    noteForUmount(request.source, serving.mountpoint, log);
    const device = deviceAt(serving.mountpoint);
    const record: MountRecord = {
      ...recordOfOpening(request, parts),
      mountpoint: serving.mountpoint,
      ...(device === undefined ? {} : { device }),
      format: disk.format,
      transport: serving.transport,
      workers: serving.workers,
      opening: false,
    };
    writeRecord(files.recordPath, record);
    if (request.pidFile !== undefined) writePidFile(request.pidFile);
    return { serving, record };
  } catch (error) {
    await undo(serving, words, log);
    throw error;
  }
}

/** The record of a mount while its image is being opened. */
export function recordOfOpening(request: MountRequest, { files, isDaemon }: MountParts): MountRecord {
  const { image, mountpoint, format, overlay, transport, readOnly, workers } = request;
  return {
    ...{ image, mountpoint, format: format ?? '?', transport, readOnly, workers },
    ...(overlay === undefined ? {} : { overlay }),
    pid: process.pid,
    processStart: processStartTime(process.pid) ?? 0,
    log: isDaemon ? files.logPath : null,
    opening: true,
  };
}

/** The options to open the image of a mount; the caller adds passwords and progress. */
export function openOptions(
  request: MountRequest,
  { closedMarks }: PreparedFiles,
): Omit<OpenDiskOptions, 'password' | 'log' | 'progress'> {
  const { readOnly, format, allowBacking, copyOnRead, locks, lazyRefcounts, anyParent } = request;
  const { overlay } = request;
  return {
    readOnly,
    format,
    allowBacking,
    ...(overlay === undefined ? { locks } : overlayOptions(request, overlay)),
    lazyRefcounts,
    anyParent,
    closedMarks,
    copyOnRead: copyOnRead ?? 'stored',
    answerMs: answerTimeOf(request),
    // those that serve, the keeper, the main thread, and the inspector
    slots: servingThreads(request) + 3,
  };
}

/** share is for the image: an overlay that is written has one writer. */
function overlayOptions(
  { imageName, locks, readOnly }: MountRequest,
  { isTemporary }: OverlayRequest,
): Pick<OpenDiskOptions, 'locks' | 'locksBelow' | 'overlaid'> {
  const own = locks === 'share' && !readOnly ? 'take' : locks;
  return { locks: own, locksBelow: locks, overlaid: { image: imageName, isTemporary } };
}

/**
 * Logs which files of the image the mount hides. The image itself may be the mountpoint, or lie below it, because it is open
 * already. A backing file may not be the mountpoint: other programs would read the disk of the overlay instead of it.
 * @throws ImgfuseError usage
 */
export function warnAboutHiddenFiles({ path, backing }: KeptDisk, request: MountRequest, log: Log): void {
  const { mountpoint, overlay } = request;
  const hides = (file: string): boolean => canonicalPath(file).startsWith(`${mountpoint}/`);
  if (backing.some((file) => canonicalPath(file) === mountpoint)) {
    throw new ImgfuseError(
      'usage',
      `the mountpoint ${mountpoint} is a backing file of ${overlay === undefined ? path : changedFile(request)}; choose another one`,
      {
        path: mountpoint,
      },
    );
  }
  const hidden = [path, ...backing].filter(hides);
  if (hidden.length > 0) log('notice', `${hidden.join(', ')} cannot be seen while ${mountpoint} is mounted over it`);
}

/** Removes a mount whose start has failed, even if it is in use. */
async function undo(serving: Serving, words: ServingWords, log: Log): Promise<void> {
  forgetForUmount(serving.mountpoint, log);
  words.stop();
  await serving.unmount({ lazy: true }).catch(() => {});
  abort(serving);
  await Promise.race([serving.ended, delay(UNDO_MS)]);
}

/** Takes our mount out of the mount table, even if it is in use. Does nothing if it is gone already. */
export function unmountNow(mountpoint: string): void {
  try {
    unmountPath(mountpoint, { lazy: true });
  } catch {}
}
