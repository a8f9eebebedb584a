// The traces of a mount that other programs see: its record, its log, its pid file, the note for umount(8), the state reported to
// systemd. Invariant: a mount that has ended clean leaves none of them.

import { printable } from '../bytes/printable.ts';
import { describeError } from '../errors/index.ts';
import { removeFile } from '../host/small-files.ts';
import { removeQuietLog } from '../mounts/leftovers.ts';
import { leaveRuntimeFiles, type MountRecord, writeRecord } from '../mounts/runtime-directory.ts';
import { forgetForUmount } from '../mounts/umount-note.ts';
import { describeLoss } from './connection-loss.ts';
import { type LiveMount, type MountParts, recordOfOpening, unmountNow } from './live-mount.ts';
import type { Log } from './log.ts';
import type { MountRequest } from './mount-request.ts';
import type { MountEnding, MountState } from './mount-state.ts';
import { notifyServiceManager } from './notify.ts';
import { changedFile, describeOverlayAtEnd, type OverlayReport } from './overlay-report.ts';
import { removePidFile } from './pid-file.ts';

export class MountTraces {
  private readonly request: MountRequest;
  private readonly parts: MountParts;
  private readonly log: Log;
  /** why the mount is no longer served although it is still mounted */
  private loss: string | null = null;

  constructor(request: MountRequest, parts: MountParts) {
    this.request = request;
    this.parts = parts;
    this.log = parts.log;
  }

  /** The image is being opened. */
  noteOpening(): void {
    writeRecord(this.parts.files.recordPath, recordOfOpening(this.request, this.parts));
  }

  /** The mount answers; its record has been written with it. */
  noteServing({ image, mountpoint, format, readOnly, transport, workers }: MountRecord): void {
    this.log(
      'info',
      `${image} (${format}, ${readOnly ? 'read-only' : 'read-write'}${this.withOverlay()}) is mounted at ${mountpoint}, transport ${transport}, ` +
        `${workers} workers, process ${process.pid}`,
    );
    const status = `STATUS=serving ${printable(image)} at ${printable(mountpoint)}`;
    notifyServiceManager(`READY=1\nMAINPID=${process.pid}\n${status}`, this.log);
  }

  private withOverlay(): string {
    return this.request.overlay === undefined ? '' : `, changes go to ${changedFile(this.request)}`;
  }

  /** For programs that read the record. */
  noteMode(mount: LiveMount, readOnly: boolean): void {
    if (mount.record.readOnly === readOnly) return;
    mount.record = { ...mount.record, readOnly };
    try {
      writeRecord(this.parts.files.recordPath, mount.record);
    } catch (error) {
      this.log('warning', describeError(error));
    }
  }

  /** The mount is no longer served. @param isWanted true if it was told to end, false if it failed */
  noteEnding({ serving, record }: LiveMount, isWanted: boolean): void {
    notifyServiceManager('STOPPING=1', this.log);
    this.loss = isWanted ? null : describeLoss(record, this.request);
    if (this.loss !== null) this.log('error', this.loss);
    forgetForUmount(serving.mountpoint, this.log);
  }

  /** The mount has ended. @param before the state before the end @param overlay what it holds */
  leave(ending: MountEnding, before: MountState<LiveMount>, overlay: OverlayReport | undefined): void {
    const { files } = this.parts;
    const { mountpoint, pidFile } = this.request;
    const record = 'mount' in before ? before.mount.record : null;
    leaveRuntimeFiles(files, record, this.loss, ending.how === 'clean');
    if (ending.how === 'clean') {
      this.log('info', `${changedFile(this.request)} is closed and clean`);
      if (overlay !== undefined) this.log('info', describeOverlayAtEnd(overlay));
      removeQuietLog(files.logPath);
    } else if (ending.how === 'unclean') {
      this.log('error', `${changedFile(this.request)} was not closed clean: ${ending.error}`);
    } else if (ending.how === 'interrupted') {
      if (before.phase === 'mounting') unmountNow(mountpoint);
      removeFile(files.logPath);
    }
    if (pidFile !== undefined) removePidFile(pidFile);
  }
}
