// A mount that answers, and how an open disk becomes one: mounted, served, recorded. Invariant: mountDisk returns a mount that
// answers and is found by `status` and `unmount`, or throws and leaves nothing mounted and no thread at work.

import { setTimeout as delay } from 'node:timers/promises';
import type { OpenDiskOptions } from '../disk/index.ts';
import { ImgfuseError } from '../errors/index.ts';
import { unmountPath } from '../fuse/index.ts';
import { canonicalPath } from '../host/canonical-path.ts';
import { processStartTime } from '../host/processes.ts';
import { deviceAt } from '../mounts/mountpoint.ts';
import { type MountRecord, type RuntimeFiles, writeRecord } from '../mounts/runtime-directory.ts';
import { forgetForUmount, noteForUmount } from '../mounts/umount-note.ts';
import { answerTimeOf } from './connection-loss.ts';
import type { KeptDisk } from './keeper/disk-keeper.ts';
import type { Log } from './log.ts';
import { abort } from './mount-end.ts';
import type { MountRequest } from './mount-request.ts';
import { writePidFile } from './pid-file.ts';
import { type Serving, type ServingEvents, startServing } from './serving.ts';
import type { ServingWords } from './workers/serving-words.ts';
import type { WarmThread } from './workers/threads.ts';

/** How long the threads of a mount that is taken back may take to end. */
const UNDO_MS = 5000;

export interface LiveMount {
  readonly serving: Serving;
  /** replaced when the mount changes between read-only and read-write */
  record: MountRecord;
}

/** What a mount process has before its image is open. */
export interface MountParts {
  readonly files: RuntimeFiles;
  readonly log: Log;
  readonly isDaemon: boolean;
  /** becomes the first worker; it is used, or left to its owner when start fails */
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

/** What is known of a mount while its image is being opened. */
export function recordOfOpening(request: MountRequest, { files, isDaemon }: MountParts): MountRecord {
  const { image, mountpoint, format, transport, readOnly, workers } = request;
  return {
    ...{ image, mountpoint, format: format ?? '?', transport, readOnly, workers },
    pid: process.pid,
    processStart: processStartTime(process.pid) ?? 0,
    log: isDaemon ? files.logPath : null,
    opening: true,
  };
}

/** How the image of a mount is opened; passwords and what is told about it come on top. */
export function openOptions(request: MountRequest): Omit<OpenDiskOptions, 'password' | 'log' | 'progress'> {
  const { readOnly, format, allowBacking, copyOnRead, locks, lazyRefcounts, anyParent, workers } = request;
  return {
    ...{ readOnly, format, allowBacking, locks, lazyRefcounts, anyParent },
    copyOnRead: copyOnRead ?? 'stored',
    answerMs: answerTimeOf(request),
    // the workers, the keeper, and the main thread
    slots: workers + 2,
  };
}

/**
 * A mount hides what its mountpoint holds. The image may be there, and may be the mountpoint itself: it is open by then. A
 * backing file that became the disk of its own overlay would be read by every other program as something it is not.
 * @throws ImgfuseError usage
 */
export function warnAboutHiddenFiles({ path, backing }: KeptDisk, { mountpoint }: MountRequest, log: Log): void {
  const hides = (file: string): boolean => canonicalPath(file).startsWith(`${mountpoint}/`);
  if (backing.some((file) => canonicalPath(file) === mountpoint)) {
    throw new ImgfuseError('usage', `the mountpoint ${mountpoint} is a backing file of ${path}; choose another one`, {
      path: mountpoint,
    });
  }
  const hidden = [path, ...backing].filter(hides);
  if (hidden.length > 0) log('notice', `${hidden.join(', ')} cannot be seen while ${mountpoint} is mounted over it`);
}

/** Takes back a mount whose start has failed, in use or not. */
async function undo(serving: Serving, words: ServingWords, log: Log): Promise<void> {
  forgetForUmount(serving.mountpoint, log);
  words.stop();
  await serving.unmount({ lazy: true }).catch(() => {});
  abort(serving);
  await Promise.race([serving.ended, delay(UNDO_MS)]);
}

/** Takes a mount of ours out of the mount table, whatever it is doing; what is not there need not be. */
export function unmountNow(mountpoint: string): void {
  try {
    unmountPath(mountpoint, { lazy: true });
  } catch {}
}
