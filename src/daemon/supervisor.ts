// The main thread of a mount: it mounts, starts the threads, and then only controls: signals, the control socket, deadlines,
// the end. Invariants: nothing blocks its event loop (the keeper thread opens and closes the image); the disk is closed only
// after all threads have stopped serving; it never accesses its own mountpoint. mount-state.ts has the edges of this picture.
//
//            opened            answers            stop                stuck
//   opening -------> mounting --------> serving -------> unmounting -------> waiting (for its users)
//      |                |                 | |                | |                 | |
//      | stop, failed   | failed          | `----- gone -----' `------ gone -----' | stop
//      | crash          | (stop or crash  | ended               |                  |
//      |                |  are deferred,  |                     V    stop, late    V
//      |                |  then late)     |                  draining ---------> leaving <--- lost (from all of these)
//      V                V                 V                     | ended            |  |
//    closed           closed           closing <----------------'------------------'  | late
//                                         | done         quiet, ended                 V
//                                         `----> closed <---- done, late ---- rescuing <--- crash (from all of these)

import { setTimeout as delay } from 'node:timers/promises';
import type { VirtualDisk } from '../disk/index.ts';
import { describeError } from '../errors/index.ts';
import type { PasswordSource } from '../host/passwords.ts';
import { assertMountpoint } from '../mounts/mountpoint.ts';
import type { MountRecord } from '../mounts/runtime-directory.ts';
import { type CloseResult, ControlServer, type RemountResult } from './control-socket.ts';
import type { HandoverParts } from './handover.ts';
import { GuestLook } from './inspection/guest-look.ts';
import { snapshotsStatus } from './inspection/snapshot-status.ts';
import type { DiskKeeper } from './keeper/disk-keeper.ts';
import { type LiveMount, type MountParts, mountDisk, openOptions, warnAboutHiddenFiles } from './live-mount.ts';
import type { Log } from './log.ts';
import { abort, requestsDone, takeDown } from './mount-end.ts';
import { MountMode } from './mount-mode.ts';
import { type MountRequest, servingThreads } from './mount-request.ts';
import { type MountEnding, type MountEvent, type MountState, next, type Phase, StartBrokenOff } from './mount-state.ts';
import {
  describePhase,
  type MountStatus,
  mountStatus,
  statusLine,
  type UnservedStatus,
  unservedStatus,
} from './mount-status.ts';
import { MountTraces } from './mount-traces.ts';
import { overlayReport } from './overlay-report.ts';
import { KEEPER_SLOT, ServedDisk } from './served-disk.ts';
import type { Serving } from './serving.ts';
import { ServingWords } from './workers/serving-words.ts';

/** How long a state may last; a state without an entry has no limit. */
const DEADLINES_MS: { readonly [P in Phase]?: number } = {
  // counts from the moment the mount is told to end
  mounting: 10_000,
  draining: 120_000,
  leaving: 10_000,
  rescuing: 10_000,
};
/** Limit for the other threads to end their running requests after a crash. */
const RESCUE_MS = 2000;

export class Supervisor {
  private readonly request: MountRequest;
  private readonly parts: MountParts;
  private readonly log: Log;
  private readonly words: ServingWords;
  private readonly mode: MountMode;
  private readonly disk: ServedDisk;
  private readonly guest: GuestLook;
  private readonly traces: MountTraces;
  private readonly control = new ControlServer({
    status: (isBrief) => this.status(isBrief),
    remount: (readOnly) => this.remount(readOnly),
  });
  /** resolves when the mount is told to end, so that optional waits stop */
  private readonly stopped: Promise<void>;
  /** resolves after the state has become `closed` and its actions are done */
  private readonly ending: Promise<MountEnding>;
  private state: MountState<LiveMount> = { phase: 'opening' };
  /** null until the mount answers */
  private serving: Serving | null = null;
  private isEndWanted = false;
  /** of the disk, in the file that took the changes; null until it is closed */
  private bytesAtEnd: number | null = null;
  private isBaseWritable = false;
  private deadline: NodeJS.Timeout | undefined;
  private noteStop: () => void = () => undefined;
  private noteEnd: (ending: MountEnding) => void = () => undefined;

  /** @param keeper is loading its modules already; the caller still owns it if the start fails */
  constructor(request: MountRequest, keeper: DiskKeeper, parts: MountParts) {
    this.request = request;
    this.parts = parts;
    this.log = parts.log;
    const threads = servingThreads(request);
    const inspectorSlot = threads + 2;
    this.words = ServingWords.create(inspectorSlot);
    this.disk = new ServedDisk(keeper, threads, parts.log);
    this.guest = new GuestLook({ disk: this.disk, words: this.words, slot: inspectorSlot, log: parts.log });
    this.traces = new MountTraces(request, parts);
    this.mode = new MountMode(request, parts.log, {
      parts: () => this.handoverParts(),
      changed: (readOnly) => 'mount' in this.state && this.traces.noteMode(this.state.mount, readOnly),
      lost: (sentence) => this.dispatch({ type: 'lost', sentence }),
    });
    this.stopped = new Promise((resolve) => {
      this.noteStop = resolve;
    });
    this.ending = new Promise((resolve) => {
      this.noteEnd = resolve;
    });
    void keeper.died.then((error) => this.threadDied(error, keeper.threadId, KEEPER_SLOT));
  }

  /**
   * Resolves when the mount answers.
   * @throws StartBrokenOff if it was told to end first; other errors say why it does not answer. Nothing is mounted then
   */
  async start(passwords: PasswordSource): Promise<MountRecord> {
    this.handleSignals();
    assertMountpoint(this.request.mountpoint, this.request.partition);
    await this.control.listen(this.parts.files.socketPath);
    try {
      const mount = await this.unlessEnded(this.openAndMount(passwords));
      this.serving = mount.serving;
      this.dispatch({ type: 'answers', mount });
      // not earlier: the mount may have been unmounted already
      void mount.serving.ended.then(() => this.dispatch({ type: 'ended' }));
      return mount.record;
    } catch (error) {
      if (this.state.phase === 'mounting') await this.closeUnmounted();
      this.dispatch({ type: 'failed' });
      const ending = await this.ending;
      if (ending.how === 'interrupted') throw new StartBrokenOff(ending.reason, ending.exitCode);
      throw ending.how === 'crashed' ? ending.error : error;
    }
  }

  /** Resolves when the mount has ended, for whatever reason, and the image is closed. @returns the exit code */
  async ended(): Promise<number> {
    const { how } = await this.ending;
    return how === 'clean' ? 0 : 1;
  }

  /** Whether a thread is still busy, so that the process must end without waiting for it. */
  get isStuck(): boolean {
    return this.disk.keeper.isBusy || this.serving?.isServing === true;
  }

  /** Ends the mount. @param exitCode for this process if nothing is mounted yet */
  stop(reason: string, exitCode: number): void {
    this.dispatch({ type: 'stop', reason, exitCode });
  }

  /** An unexpected error in this thread: the mount is no longer served. */
  crash(error: Error): void {
    this.dispatch({ type: 'crash', error });
  }

  private dispatch(event: MountEvent<LiveMount>): void {
    const before = this.state;
    const after = next(before, event);
    this.state = after;
    if (event.type === 'stop' || event.type === 'crash') this.noteStop();
    if (event.type === 'stop' || event.type === 'crash' || event.type === 'lost') this.isEndWanted = true;
    if (event.type === 'crash' && after !== before) {
      this.log('error', `the mount ends because of an internal error: ${event.error.stack ?? event.error.message}`);
    }
    if (event.type === 'stop' && after === before) this.log('notice', `${event.reason}: ${this.describe()}`);
    if (after === before) return;
    clearTimeout(this.deadline);
    const deadlineMs = after.phase === 'mounting' && after.deferred === null ? undefined : DEADLINES_MS[after.phase];
    if (deadlineMs !== undefined) this.deadline = setTimeout(() => this.dispatch({ type: 'late' }), deadlineMs);
    if (after.phase !== before.phase) this.enter(after, before);
  }

  /** The actions of a state that has just begun. */
  private enter(state: MountState<LiveMount>, before: MountState<LiveMount>): void {
    switch (state.phase) {
      case 'unmounting':
        return this.takeDown(state.mount, state.reason);
      case 'waiting':
        return this.log(
          'warning',
          `${this.request.image} is closed when the last user ends: a second SIGTERM or SIGINT closes it at once, and ` +
            'ends this process',
        );
      case 'draining':
        this.disk.giveUpServers();
        return this.words.stop();
      case 'leaving':
        this.disk.giveUpServers();
        this.log('warning', `${state.reason}: closing ${this.request.image} under its users`);
        this.words.stop();
        if (state.lost !== null) this.breakOff(state.mount);
        void requestsDone(this.words).then(() => this.dispatch({ type: 'quiet' }));
        return;
      case 'closing':
        return this.whileIn(state, async () => state.lost ?? (await this.closeDisk(state.mount)));
      case 'rescuing':
        this.disk.giveUpServers();
        this.words.stop();
        this.breakOff(state.mount);
        return this.whileIn(state, () => this.rescue(state.mount));
      case 'closed':
        return void this.finish(state.ending, before);
    }
  }

  private takeDown({ serving }: LiveMount, reason: string): void {
    takeDown(serving, this.words, reason, this.log).then(
      (type) => this.dispatch({ type }),
      (error) => this.crash(error),
    );
  }

  /**
   * Reports the result of `work`, unless the state has changed meanwhile.
   * @param work resolves to why the image is not clean, or null
   */
  private whileIn(state: MountState<LiveMount>, work: () => Promise<string | null>): void {
    work()
      .catch(describeError)
      .then((error) => {
        if (this.state === state) this.dispatch({ type: 'done', error });
      });
  }

  /** Ends the connection, because nothing can serve it: programs that use the mount get errors. */
  private breakOff({ serving }: LiveMount): void {
    const refusal = serving.isServing ? abort(serving) : null;
    if (refusal !== null) this.log('warning', `${refusal}; its users get errors once this process has ended`);
  }

  private async openAndMount(passwords: PasswordSource): Promise<LiveMount> {
    const { imageName, overlay } = this.request;
    const path = overlay?.path ?? imageName;
    this.traces.noteOpening();
    if (!this.request.readOnly) await this.mode.claimImage();
    const options = openOptions(this.request, this.parts.files);
    const { partition = null } = this.request;
    const disk = await this.disk.open({ path, options, passwords, partition, words: this.words.shared });
    this.isBaseWritable = disk.isBackingWritable;
    warnAboutHiddenFiles(disk, this.request, this.log);
    this.dispatch({ type: 'opened' });
    // an overlay that was not there before
    if (!this.request.readOnly) await this.mode.claimImage();
    const mount = await mountDisk(disk, this.request, this.words, this.parts, {
      attach: () => this.disk.attached(),
      status: async () => ({ ...(await this.status(false)), state: 'mounted' }),
      died: (error, thread, slot) => this.threadDied(error, thread, slot),
      used: () => this.attachSoon(),
      missed: (error, thread, slot) => {
        this.log('warning', `thread ${slot} of the mount could not be started, the others serve it: ${error.message}`);
        this.disk.abandon(thread, slot);
      },
      gone: () => this.dispatch({ type: 'gone' }),
    });
    this.traces.noteServing(mount.record);
    return mount;
  }

  /** Attaches ahead of the first question: the files of the program may be others by then. */
  private attachSoon(): void {
    this.disk.attached().catch((error) => this.log('warning', `status cannot tell all: ${describeError(error)}`));
  }

  private async remount(readOnly: boolean): Promise<RemountResult> {
    if (this.state.phase === 'serving') await this.disk.attached();
    return this.mode.change(readOnly);
  }

  /** Rejects when the state is `closed` before `work` is done. */
  private unlessEnded<T>(work: Promise<T>): Promise<T> {
    work.catch(() => undefined);
    const ended = this.ending.then(() => {
      throw new StartBrokenOff('the mount has ended', 1);
    });
    return Promise.race([work, ended]);
  }

  /** Called if the image is open and could not be mounted. */
  private async closeUnmounted(): Promise<void> {
    this.words.stop();
    await this.disk.withdraw().catch((error) => this.log('error', describeError(error)));
  }

  private threadDied(error: Error, thread: number, slot: number): void {
    this.disk.abandon(thread, slot);
    if (slot !== KEEPER_SLOT) this.words.putDown(slot);
    this.dispatch({ type: 'crash', error });
  }

  private handoverParts(): HandoverParts | null {
    const { keeper, attachedDisk: disk } = this.disk;
    if (this.state.phase !== 'serving' || disk === null) return null;
    const { serving } = this.state.mount;
    return {
      request: this.request,
      serving,
      words: this.words,
      log: this.log,
      keeper,
      disk,
      stopped: this.stopped,
      exchange: (shared) => {
        this.disk.exchange(shared);
        serving.handover!.handOver(shared);
      },
    };
  }

  private handleSignals(): void {
    process.on('SIGUSR1', () => {
      this.describe().then(
        (line) => this.log('notice', line),
        (error) => this.log('error', describeError(error)),
      );
    });
    process.on('SIGTERM', () => this.stop('SIGTERM', 143));
    process.on('SIGINT', () => this.stop('SIGINT', 130));
    process.on('SIGHUP', () => {
      // a daemon outlives the terminal, but only after the command was told that the mount answers
      const isStarting = this.state.phase === 'opening' || this.state.phase === 'mounting';
      if (isStarting || !this.parts.isDaemon) this.stop('SIGHUP', 129);
    });
  }

  /** @returns null, or the sentence that says why the image is not clean */
  private async closeDisk(mount: LiveMount): Promise<string | null> {
    const isSettled = await this.mode.settled();
    await this.guest.end();
    this.traces.noteEnding(mount, this.isEndWanted);
    if (!isSettled) return `it was being taken over, and the next read-write mount checks and repairs it if it must`;
    this.bytesAtEnd = await this.disk.close();
    return null;
  }

  /** After a crash: makes acknowledged writes durable as far as possible, without marking the image clean. */
  private async rescue(mount: LiveMount): Promise<string | null> {
    await Promise.race([Promise.all([requestsDone(this.words), this.guest.end()]), delay(RESCUE_MS)]);
    this.traces.noteEnding(mount, this.isEndWanted);
    try {
      await this.disk.rescue();
      return null;
    } catch (error) {
      return `not everything could be written: ${describeError(error)}`;
    } finally {
      await mount.serving.unmount({ lazy: false }).catch(() => {});
    }
  }

  private async finish(ending: MountEnding, before: MountState<LiveMount>): Promise<void> {
    const overlay = overlayReport(this.request, this.bytesAtEnd, this.isBaseWritable);
    this.traces.leave(ending, before, overlay);
    await this.control.finish({ ...closeResult(ending), ...(overlay === undefined ? {} : { overlay }) });
    this.noteEnd(ending);
  }

  /** @param isBrief without a look into the disk */
  private async status(isBrief: boolean): Promise<MountStatus | UnservedStatus> {
    const attached = this.state.phase === 'serving' ? await this.disk.attached().catch(() => null) : null;
    const serving = this.state.phase === 'serving' && attached !== null ? this.state.mount.serving : null;
    const guest =
      isBrief || serving === null ? {} : await this.guest.status(serving, wholeDiskFile(this.request, serving));
    return { ...this.statusOf(attached ?? this.disk.attachedDisk), ...guest };
  }

  private statusOf(disk: VirtualDisk | null): MountStatus | UnservedStatus {
    const state = this.state;
    const { files, isDaemon } = this.parts;
    const log = isDaemon ? files.logPath : null;
    const isServed = state.phase === 'serving' || state.phase === 'unmounting' || state.phase === 'waiting';
    if (!isServed || disk === null) {
      return unservedStatus(this.request, state.phase, this.disk.keeper.step, log);
    }
    const { serving } = state.mount;
    const snapshots = snapshotsStatus(disk, serving.diskFile !== serving.mountpoint);
    return mountStatus(this.request, disk, serving, snapshots, this.mode.isShared, log);
  }

  private async describe(): Promise<string> {
    const disk = this.state.phase === 'serving' ? await this.disk.attached() : null;
    const { phase } = this.state;
    if (phase !== 'serving' || disk === null) return describePhase(this.request, phase, this.disk.keeper.step);
    return statusLine(this.statusOf(disk) as MountStatus);
  }
}

/** What shows the whole disk, for programs that look into it; null: nothing does. */
function wholeDiskFile({ partition }: MountRequest, { diskFile }: Serving): string | null {
  return partition === undefined ? diskFile : null;
}

function closeResult(ending: MountEnding): CloseResult {
  if (ending.how === 'clean') return { closed: true, clean: true };
  if (ending.how === 'unclean') return { closed: true, clean: false, error: ending.error };
  return { closed: true, clean: false, started: false, error: 'the mount did not start' };
}
