// The main thread of a mount: opens the image, mounts, starts the threads, and then only controls: signals, the control
// socket, the end. Invariants: its event loop stays free while the mount is served; the disk is closed when nobody serves
// any more and not before; it never looks at its own mountpoint. How the mount is taken down is in mount-end.ts.

import { setTimeout as delay } from 'node:timers/promises';
import { type OpenDiskOptions, openDisk, type VirtualDisk } from '../disk/index.ts';
import { describeError } from '../errors/index.ts';
import { answerTimeOf, describeLoss } from './connection-loss.ts';
import { type CloseResult, ControlServer } from './control-socket.ts';
import type { HandoverParts } from './handover.ts';
import { processStartTime } from './host-paths.ts';
import { type Log, removeQuietLog } from './log.ts';
import type { MountRequest } from './mount-arguments.ts';
import { MountEnd } from './mount-end.ts';
import { MountMode } from './mount-mode.ts';
import { type MountStatus, mountStatus, statusLine } from './mount-status.ts';
import { assertMountpoint, deviceAt, sayWhatIsHidden } from './mountpoint.ts';
import { notifyServiceManager } from './notify.ts';
import { printable } from './output.ts';
import type { PasswordOf } from './passwords.ts';
import { removePidFile, writePidFile } from './pid-file.ts';
import { createStopWords, diskGeneration, setStop } from './request-gate.ts';
import {
  leaveRuntimeFiles,
  type MountRecord,
  type RuntimeFiles,
  removeRuntimeFiles,
  writeRecord,
} from './runtime-directory.ts';
import { type Serving, startServing } from './serving.ts';
import { STOP, startThread, type Thread, type WarmThread } from './threads.ts';
import { forgetForUmount, noteForUmount } from './umount-note.ts';

/** how long a thread may take to flush after another one crashed */
const RESCUE_MS = 10_000;

export class Supervisor {
  readonly #request: MountRequest;
  readonly #files: RuntimeFiles;
  readonly #first: WarmThread;
  readonly #log: Log;
  readonly #isDaemon: boolean;
  readonly #password: PasswordOf;
  readonly #stopWord: Int32Array;
  readonly #control = new ControlServer({
    status: () => this.#status(),
    remount: (readOnly) => this.#mode.change(readOnly),
  });
  readonly #mode: MountMode;
  readonly #end: MountEnd;
  #disk: VirtualDisk | null = null;
  #serving: Serving | null = null;
  #record: MountRecord | null = null;
  #maintenance: Thread | null = null;
  #stopReason: string | null = null;
  #crash: Error | null = null;
  /** why there is no disk any more that could be closed */
  #lost: string | null = null;

  /** @param first a thread that is loading its modules already; it is used, or left to its owner when start fails */
  constructor(
    request: MountRequest,
    files: RuntimeFiles,
    first: WarmThread,
    log: Log,
    { isDaemon, password }: { readonly isDaemon: boolean; readonly password: PasswordOf },
  ) {
    this.#first = first;
    this.#request = request;
    this.#password = password;
    this.#files = files;
    this.#log = log;
    this.#isDaemon = isDaemon;
    this.#mode = new MountMode(request, log, {
      parts: () => this.#handoverParts(),
      changed: (readOnly) => this.#noteMode(readOnly),
      lost: (sentence) => this.#lose(sentence),
    });
    // the workers, and the maintenance thread
    this.#stopWord = createStopWords(request.workers + 1);
    this.#end = new MountEnd(request.image, this.#stopWord, log);
  }

  /** Resolves when the mount answers. @throws ImgfuseError why it does not; then nothing is left behind */
  async start(): Promise<MountRecord> {
    const request = this.#request;
    let record: MountRecord;
    this.#handleSignals();
    assertMountpoint(request.mountpoint);
    await this.#control.listen(this.#files.socketPath);
    try {
      if (!request.readOnly) await this.#mode.claimImage();
      this.#disk = openDisk(request.imageName, this.#openOptions());
      sayWhatIsHidden(this.#disk, request, this.#log);
      const crashed = (error: Error): void => this.crash(error);
      this.#serving = await startServing(this.#disk, request, this.#stopWord, this.#first, crashed, this.#log);
      noteForUmount(request.source, this.#serving.mountpoint, this.#log);
      this.#maintenance = this.#startMaintenance(this.#disk);
      void this.#maintenance.ended.then((error) => error === null || this.crash(error));
      record = this.#writeFiles(this.#disk, this.#serving);
    } catch (error) {
      await this.#undoStart();
      throw error;
    }
    const { image, readOnly } = request;
    const { mountpoint, transport, workers } = this.#serving;
    this.#log(
      'info',
      `${image} (${this.#disk.format}, ${readOnly ? 'read-only' : 'read-write'}) is mounted at ${mountpoint}, ` +
        `transport ${transport}, ${workers} workers, process ${process.pid}`,
    );
    notifyServiceManager(
      `READY=1\nMAINPID=${process.pid}\nSTATUS=serving ${printable(image)} at ${printable(mountpoint)}`,
      this.#log,
    );
    if (this.#stopReason !== null) void this.#end.unmount(this.#serving, this.#stopReason);
    return record;
  }

  /** Resolves when the mount has ended, however that came, and the image is closed. @returns the exit code */
  async ended(): Promise<number> {
    await Promise.race([this.#serving!.ended, this.#end.left]);
    await this.#mode.settled();
    notifyServiceManager('STOPPING=1', this.#log);
    const isWanted = this.#stopReason !== null || this.#crash !== null || this.#lost !== null;
    const loss = isWanted ? null : describeLoss(this.#record!, this.#request);
    if (loss !== null) this.#log('error', loss);
    forgetForUmount(this.#serving!.mountpoint, this.#log);
    const error = this.#crash === null ? await this.#closeDisk() : await this.#rescue(this.#crash);
    if (error === null) {
      this.#log('info', `${this.#request.image} is closed and clean`);
      leaveRuntimeFiles(this.#files, this.#record, loss, true);
      removeQuietLog(this.#files.logPath);
    } else {
      this.#log('error', `${this.#request.image} was not closed clean: ${error}`);
      leaveRuntimeFiles(this.#files, this.#record, loss, false);
    }
    if (this.#request.pidFile !== undefined) removePidFile(this.#request.pidFile);
    await this.#finish(error === null ? { closed: true, clean: true } : { closed: true, clean: false, error });
    return error === null ? 0 : 1;
  }

  /** Ends the mount as SIGTERM does; a mount that waits for its users already is closed without them. */
  stop(reason: string): void {
    if (this.#end.waitsForUsers) return this.#end.leave(reason, this.#crash === null ? STOP.end : STOP.rescue);
    if (this.#stopReason !== null) return;
    this.#stopReason = reason;
    if (this.#serving !== null) void this.#end.unmount(this.#serving, reason);
  }

  /** A bug or a lack of memory has ended a thread, or struck this one: nothing is served any more. */
  crash(error: Error): void {
    if (this.#crash !== null) return;
    this.#crash = error;
    this.#log('error', `the mount ends because of an internal error: ${error.stack ?? error.message}`);
    this.#end.breakOff(this.#serving, STOP.rescue);
  }

  #startMaintenance(disk: VirtualDisk): Thread {
    const slot = this.#request.workers + 1;
    const stopWord = this.#stopWord;
    const generation = diskGeneration(stopWord);
    return startThread({ role: 'maintain', slot, disk: disk.share(), stopWord, generation }, this.#log);
  }

  #openOptions(): OpenDiskOptions {
    const { readOnly, format, allowBacking, copyOnRead, locks, lazyRefcounts, workers } = this.#request;
    return {
      readOnly,
      ...(format === undefined ? {} : { format }),
      allowBacking,
      copyOnRead: copyOnRead ?? 'stored',
      locks,
      lazyRefcounts,
      answerMs: answerTimeOf(this.#request),
      password: this.#password,
      slots: workers + 2,
      log: (sentence) => this.#log('notice', sentence),
    };
  }

  #handoverParts(): HandoverParts | null {
    if (this.#serving === null || this.#stopReason !== null || this.#crash !== null) return null;
    return {
      request: this.#request,
      options: this.#openOptions(),
      serving: this.#serving!,
      stopWord: this.#stopWord,
      log: this.#log,
      disk: this.#disk!,
      exchange: (disk) => {
        this.#disk = disk;
        const shared = disk.share();
        this.#serving!.handover!.handOver(shared);
        this.#maintenance!.handOver(shared);
      },
    };
  }

  /** For who reads the record. */
  #noteMode(readOnly: boolean): void {
    if (this.#record === null || this.#record.readOnly === readOnly) return;
    this.#record = { ...this.#record, readOnly };
    try {
      writeRecord(this.#files.recordPath, this.#record);
    } catch (error) {
      this.#log('warning', describeError(error));
    }
  }

  /** There is no disk behind the mount any more: it ends. */
  #lose(sentence: string): void {
    this.#lost = sentence;
    this.#end.breakOff(this.#serving, STOP.end);
  }

  #handleSignals(): void {
    process.on('SIGUSR1', () => this.#log('notice', this.#describe()));
    process.on('SIGTERM', () => this.stop('SIGTERM'));
    process.on('SIGINT', () => this.stop('SIGINT'));
    process.on('SIGHUP', () => {
      if (!this.#isDaemon) this.stop('SIGHUP');
    });
  }

  #writeFiles(disk: VirtualDisk, serving: Serving): MountRecord {
    const { image, readOnly, pidFile } = this.#request;
    const device = deviceAt(serving.mountpoint);
    const record: MountRecord = {
      image,
      mountpoint: serving.mountpoint,
      ...(device === undefined ? {} : { device }),
      pid: process.pid,
      processStart: processStartTime(process.pid) ?? 0,
      format: disk.format,
      transport: serving.transport,
      readOnly,
      workers: serving.workers,
      log: this.#isDaemon ? this.#files.logPath : null,
    };
    writeRecord(this.#files.recordPath, record);
    this.#record = record;
    if (pidFile !== undefined) writePidFile(pidFile);
    return record;
  }

  async #undoStart(): Promise<void> {
    if (this.#serving !== null) {
      forgetForUmount(this.#serving.mountpoint, this.#log);
      await this.#end.undo(this.#serving);
      await Promise.race([this.#serving.ended, this.#end.left]);
    }
    setStop(this.#stopWord, STOP.end);
    await this.#maintenance?.ended;
    try {
      await this.#end.requestsDone();
      this.#disk?.close();
    } catch (error) {
      this.#log('error', describeError(error));
    }
    removeRuntimeFiles(this.#files);
    await this.#finish({ closed: true, clean: false, error: 'the mount did not start' });
  }

  /**
   * Tells the waiters. Threads parked in read(/dev/fuse) keep every exit of Node waiting for ever, so that a process that
   * still has some kills itself; that ends the connection, and the exit code is that of SIGKILL whatever the result.
   */
  async #finish(result: CloseResult): Promise<void> {
    const told = this.#control.finish(result);
    // no turn of the event loop from the close of the disk to here: fuse-native would serve requests on its descriptors
    if (this.#end.isLeaving) process.kill(process.pid, 'SIGKILL');
    await told;
  }

  /** @returns null, or the sentence that says why the image is not clean */
  async #closeDisk(): Promise<string | null> {
    setStop(this.#stopWord, STOP.end);
    const failure = await this.#maintenance!.ended;
    if (failure !== null) return this.#rescue(failure);
    if (this.#lost !== null) return this.#lost;
    try {
      await this.#end.requestsDone();
      this.#disk!.close();
      return null;
    } catch (error) {
      return describeError(error);
    }
  }

  /**
   * After a crash: flush what was acknowledged, in a thread that may hang without harm should the crashed one have left
   * the metadata lock taken. The dirty bit stays set, so that the next open checks the image.
   */
  async #rescue(crash: Error): Promise<string> {
    setStop(this.#stopWord, STOP.rescue);
    const flushed = this.#maintenance!.ended.then((failure) =>
      failure === null ? null : this.#startMaintenance(this.#disk!).ended,
    );
    await Promise.race([flushed, delay(RESCUE_MS, null, { ref: false })]);
    await this.#serving!.unmount({ lazy: false }).catch(() => {});
    return `the mount process failed (${crash.message}); the next read-write mount checks and repairs the image`;
  }

  #status(): MountStatus {
    const log = this.#isDaemon ? this.#files.logPath : null;
    return mountStatus(this.#request, this.#disk!, this.#serving!, this.#mode.isShared, log);
  }

  #describe(): string {
    return this.#serving === null ? `opening ${this.#request.image}` : statusLine(this.#status());
  }
}
