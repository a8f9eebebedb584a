// How a mount is served: by worker threads on the kernel transport, or by fuse-native on the main thread.
// Invariant: `ended` settles when no thread serves requests any more, for whatever reason; the disk may close only after that.

import { join } from 'node:path';
import type { SharedDisk, VirtualDisk } from '../disk/index.ts';
import { closeQuietly } from '../errors/close.ts';
import { describeError, ImgfuseError } from '../errors/index.ts';
import {
  abandonTree,
  createTree,
  DISK_NAME,
  DiskFilesystem,
  dropStalePages,
  nodesOf,
  type SharedTree,
  type Shown,
  setTreeReadOnly,
  writableHandles,
} from '../filesystem/index.ts';
import {
  answerAfterDrop,
  answerLate,
  createCounters,
  Device,
  type FuseMountOptions,
  flagsLeftOut,
  fuseNativeAvailable,
  type KernelSession,
  mayHaveRequest,
  mountFuseNative,
  mountKernel,
  readCounters,
  type Transport,
  totalRequests,
} from '../fuse/index.ts';
import { isInherited, needsFile } from '../mounts/mountpoint.ts';
import { nativeAvailable } from '../native/index.ts';
import { answerTimeOf } from './connection-loss.ts';
import { StatusTexts } from './inspection/status-texts.ts';
import type { KeptDisk } from './keeper/disk-keeper.ts';
import { type Log, requestErrorLog } from './log.ts';
import { type MountRequest, servingThreads } from './mount-request.ts';
import { refusalLog, tableLog } from './refusal-log.ts';
import { Crew, type CrewEvents } from './workers/crew.ts';
import type { ServingWords } from './workers/serving-words.ts';
import { SpaceWatch } from './workers/space-watch.ts';
import type { ServeData, Thread, ThreadHears, WarmThread } from './workers/threads.ts';

/** A mount that answers. */
export interface Serving {
  readonly transport: Transport;
  /** as in the mount table; /dev/fd/N if the kernel does not tell which mount that is */
  readonly mountpoint: string;
  /** path of the disk file in the mount */
  readonly diskFile: string;
  readonly workers: number;
  /** resolves when no thread serves the mount any more */
  readonly ended: Promise<void>;
  /** not yet */
  readonly isServing: boolean;
  /** @throws ImgfuseError busy if the mount is in use and `lazy` is not set; missing if it is detached already */
  unmount(options: { lazy: boolean }): Promise<void>;
  /**
   * Ends the connection, even if it is in use: unanswered requests fail.
   * @throws ImgfuseError if that is impossible: no fusectl for an ordinary user, or an unknown connection
   */
  abort(): void;
  /** requests served, by operation */
  requests(): Readonly<Record<string, number>>;
  /** null if the disk cannot be exchanged under the mount */
  readonly handover: Handover | null;
  /** what the threads share of the files that it shows */
  readonly tree: SharedTree;
  /** null if a write for which the host has no space fails */
  readonly space: SpaceWatch | null;
}

/** Called with events of the threads of a mount. */
export interface ServingEvents extends Omit<CrewEvents, 'ended' | 'roomMissed'> {
  /** the disk for this thread, whose engines fuse-native alone needs before the mount answers */
  readonly attach: () => Promise<VirtualDisk>;
  /** what status.json says, whenever somebody opens it */
  readonly status: () => Promise<unknown>;
}

/** The operations for an exchange of the disk under a mount. */
export interface Handover {
  /** passes every thread the disk that it attaches to when its gate tells it */
  handOver(disk: SharedDisk): void;
  /** allows or forbids to open the disk for writing */
  setReadOnly(readOnly: boolean): void;
  /** number of files open for writing */
  writableHandles(): number;
  /** makes the kernel drop its cache of the disk; requests must be served meanwhile */
  invalidate(what: 'attributes' | 'data'): Promise<void>;
}

/**
 * Mounts and starts to serve.
 * @param words shared by every thread of the mount
 * @param first becomes the first worker thread; it is ended if the transport has no workers
 */
export async function startServing(
  disk: KeptDisk,
  request: MountRequest,
  words: ServingWords,
  first: WarmThread,
  log: Log,
  events: ServingEvents,
): Promise<Serving> {
  if (chooseTransport(request, log) === 'kernel') return serveKernel(disk, request, words, first, log, events);
  if (request.full === 'wait') throw cannotWait();
  await first.discard();
  return serveFuseNative(disk, request, words, log, events);
}

function chooseTransport(request: MountRequest, log: Log): Transport {
  if (request.transport !== 'auto') return request.transport;
  if (nativeAvailable() || !fuseNativeAvailable()) return 'kernel';
  log('warning', 'the kernel transport cannot work here (the npm package koffi is missing): using fuse-native');
  return 'fuse-native';
}

/** fuse-native serves on the main thread, which a write that waits would block, and it cannot answer a request later. */
function cannotWait(): ImgfuseError {
  const message = 'full=wait needs the kernel transport: fuse-native would serve no reads while a write waits';
  return new ImgfuseError('unsupported', message);
}

/** Always nosuid and nodev: the mount has only regular files, and an image must not grant rights. */
function mountOptions(request: MountRequest, transport: Transport): FuseMountOptions {
  return {
    source: request.source,
    // a mount that may become read-write must not be read-only for the kernel, because only root could change that
    readOnly: request.readOnly && !(request.share && transport === 'kernel'),
    allowOther: request.allowOther,
    // an inherited mount keeps the flags that it was made with
    defaultPermissions: !isInherited(request.mountpoint) || request.defaultPermissions,
    flags: ['nosuid', 'nodev', ...request.flags],
    ...(request.maxRead === undefined ? {} : { maxRead: request.maxRead }),
  };
}

/** Users other than root mount through fusermount3. An inherited mount keeps its flags. */
function sayWhatIsLeftOut({ flags, mountpoint }: MountRequest, log: Log): void {
  if (process.geteuid?.() === 0 || isInherited(mountpoint)) return;
  const missing = flagsLeftOut(flags).join(', ');
  if (missing !== '') log('notice', `${mountpoint} is mounted without ${missing}, which only root can ask for`);
}

function owner(request: MountRequest): { uid: number; gid: number; umask?: number } {
  return {
    uid: request.uid ?? process.getuid?.() ?? 0,
    gid: request.gid ?? process.getgid?.() ?? 0,
    ...(request.umask === undefined ? {} : { umask: request.umask }),
  };
}

async function serveKernel(
  disk: KeptDisk,
  request: MountRequest,
  words: ServingWords,
  warm: WarmThread,
  log: Log,
  events: ServingEvents,
): Promise<Serving> {
  const session = mountKernel({
    ...mountOptions(request, 'kernel'),
    mountpoint: request.mountpoint,
    holds: request.full === 'wait',
  });
  sayWhatIsLeftOut(request, log);
  const counters = createCounters();
  const texts = new StatusTexts(events.status);
  const space = request.full === 'wait' ? new SpaceWatch(words.held, request.image, log) : null;
  let crew: Crew | undefined;
  const hears: ThreadHears = {
    log,
    later: answerLateRequests(texts, log),
    drop: dropLate(session, log),
    space: (message) => space?.hear(message, (held) => crew?.giveHeld(held)),
  };
  let first: Thread;
  let others: readonly ServeData[];
  let tree: SharedTree;
  try {
    // only here of a mountpoint that was passed as a descriptor
    if (disk.part !== null && !session.rootIsFile) throw needsFile(session.mountpoint, request.partition!);
    tree = createTree(
      { readOnly: disk.readOnly, modifiedMs: () => disk.modifiedMs },
      { rootIsFile: session.rootIsFile, shows: shownOf(disk), part: disk.part ?? undefined, ...owner(request) },
    );
    const [data, ...rest] = workerData(session, disk, tree, request, words, counters);
    first = warm.run(data!, hears);
    others = rest;
  } catch (error) {
    closeQuietly([{ close: () => session.unmount({ lazy: true }) }, session]);
    throw error;
  }
  // one ready worker is enough for the mount to answer: the kernel queues requests after INIT until the others are ready
  if (!(await first.started)) {
    session.unmount({ lazy: true });
    throw (await first.ended) ?? new Error('a worker thread ended before it served anything');
  }
  const dropPages = (node: number) => session.invalidate(node, 'data');
  void dropStalePages(tree, dropPages).catch((error) => log('warning', describeError(error)));
  const crewEvents = {
    ...events,
    roomMissed: () => space?.roomMissed(),
    ended: (threadId: number) => abandonTree(tree, threadId),
  };
  crew = new Crew(first, others, words, hears, crewEvents, {
    received: () => totalRequests(counters),
    isWaiting: () => mayHaveRequest(session.fd),
  });
  return withEnd(crew.ended, {
    transport: 'kernel',
    mountpoint: session.mountpoint,
    diskFile: session.rootIsFile ? session.mountpoint : join(session.mountpoint, DISK_NAME),
    workers: request.workers,
    unmount: async (options) => session.unmount(options),
    abort: () => session.abort(),
    requests: () => readCounters(counters),
    tree,
    handover: {
      handOver: (next) => crew?.handOver(next),
      setReadOnly: (readOnly) => setTreeReadOnly(tree, readOnly),
      writableHandles: () => writableHandles(tree),
      invalidate: async (what) => {
        for (const node of nodesOf(tree)) await session.invalidate(node, what);
      },
    },
    space,
  });
}

/** The names beside the disk. An image without snapshots has no directory for them. */
function shownOf({ hasSnapshots }: KeptDisk): Shown[] {
  return ['partitions', ...(hasSnapshots ? (['snapshots'] as const) : []), 'status'];
}

function withEnd(ended: Promise<void>, serving: Omit<Serving, 'ended' | 'isServing'>): Serving {
  let isServing = true;
  const seen = ended.then(() => {
    isServing = false;
  });
  return {
    ...serving,
    ended: seen,
    get isServing() {
      return isServing;
    },
  };
}

/**
 * The data of each worker, and of the waiting room after them. Each worker has its own descriptor, so that the kernel can hand out
 * requests in parallel; the room only answers.
 */
function workerData(
  session: KernelSession,
  disk: KeptDisk,
  tree: SharedTree,
  request: MountRequest,
  words: ServingWords,
  counters: SharedArrayBuffer,
): ServeData[] {
  const { workers } = request;
  return Array.from({ length: servingThreads(request) }, (_, index) => ({
    slot: index + 1,
    disk: disk.shared,
    tree,
    descriptor: index < workers ? session.cloneDevice() : session.fd,
    protocol: session.protocol,
    counters,
    words: words.shared,
    generation: words.generation,
    ...(request.full === 'wait' ? { full: index < workers ? 'hold' : { limitMs: answerTimeOf(request) } } : {}),
  }));
}

/** What the main thread answers itself. */
function answerLateRequests(texts: StatusTexts, log: Log): ThreadHears['later'] {
  const logError = requestErrorLog(log);
  return (message, descriptor) => {
    answerLate(message, descriptor, texts).then(
      (error) => error !== null && logError(error, 'a request for status.json'),
      (error) => logError(error, 'a request for status.json'),
    );
  };
}

function dropLate(session: KernelSession, log: Log): ThreadHears['drop'] {
  return (drop, descriptor) => {
    answerAfterDrop(session.fd, drop, new Device(descriptor)).then(
      (failure) => failure !== null && log('warning', failure),
      (error) => log('warning', describeError(error)),
    );
  };
}

async function serveFuseNative(
  disk: KeptDisk,
  request: MountRequest,
  words: ServingWords,
  log: Log,
  events: ServingEvents,
): Promise<Serving> {
  const attached = await events.attach();
  if (isInherited(request.mountpoint)) {
    throw new ImgfuseError('unsupported', 'fuse-native cannot take over a mounted descriptor; use --transport kernel');
  }
  const tree = createTree(
    { readOnly: disk.readOnly, modifiedMs: () => disk.modifiedMs },
    { rootIsFile: false, shows: shownOf(disk), ...owner(request) },
  );
  const counters = createCounters();
  const logger = requestErrorLog(log);
  const options = {
    ...mountOptions(request, 'fuse-native'),
    mountpoint: request.mountpoint,
    counters,
    onError: logger,
    shouldStop: () => words.isStopped,
    late: new StatusTexts(events.status),
  };
  const session = await mountFuseNative(options, new DiskFilesystem(attached, tree, refusalLog(log), tableLog(log)));
  return withEnd(session.ended, {
    transport: 'fuse-native',
    mountpoint: session.mountpoint,
    diskFile: join(session.mountpoint, DISK_NAME),
    workers: 1,
    unmount: (unmountOptions) => session.unmount(unmountOptions),
    abort: () => session.abort(),
    requests: () => readCounters(counters),
    tree,
    handover: null,
    space: null,
  });
}
