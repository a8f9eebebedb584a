// The mode of a mount (read-write, read-only, or read-only beside a writer) and its changes. Changes run one after the other; each
// one succeeds, or fails with a sentence. Invariant: the code that closes the disk has waited for settled().

import { describeError } from '../errors/index.ts';
import { fileIdentity } from '../host/small-files.ts';
import type { RemountResult } from './control-socket.ts';
import { DiskLostError, giveAway, type HandoverParts, TakeoverBrokenOff, takeOver } from './handover.ts';
import { ImageClaim } from './image-claim.ts';
import type { Log } from './log.ts';
import type { MountRequest } from './mount-request.ts';
import { changedFile } from './overlay-report.ts';

/** What a change of the mode needs from the mount, and what it reports. */
export interface ModeHooks {
  /** null while the mount starts or ends */
  readonly parts: () => HandoverParts | null;
  readonly changed: (readOnly: boolean) => void;
  /** called if the mount has lost its disk */
  readonly lost: (sentence: string) => void;
}

export class MountMode {
  private readonly request: MountRequest;
  private readonly log: Log;
  private readonly hooks: ModeHooks;
  /** the last change; never rejects */
  private last: Promise<unknown> = Promise.resolve();
  private claim: ImageClaim | null = null;
  private shared: boolean;
  private isBrokenOff = false;

  constructor(request: MountRequest, log: Log, hooks: ModeHooks) {
    this.request = request;
    this.log = log;
    this.hooks = hooks;
    this.shared = request.share;
  }

  /** Whether another program may write to the image. */
  get isShared(): boolean {
    return this.shared;
  }

  /** Resolves when no change is running. @returns false if one was broken off, so that a thread may still be opening the image */
  async settled(): Promise<boolean> {
    await this.last;
    return !this.isBrokenOff;
  }

  /** Without locks, at least prevents other mounts of this machine from writing. @throws ImgfuseError busy */
  async claimImage(): Promise<void> {
    const { image, locks, overlay } = this.request;
    if (locks !== 'none' || overlay?.isTemporary === true) return;
    const written = overlay?.path ?? image;
    const identity = fileIdentity(written);
    if (identity !== null && this.claim === null) this.claim = await ImageClaim.take(written, identity);
  }

  /** Changes the mode after all earlier changes. Does nothing if the mount has the mode already. */
  change(readOnly: boolean): Promise<RemountResult> {
    const result = this.last.then(() => this.changeNow(readOnly));
    this.last = result;
    return result;
  }

  private async changeNow(readOnly: boolean): Promise<RemountResult> {
    const { overlay } = this.request;
    const image = changedFile(this.request);
    const mode = readOnly ? 'read-only' : 'read-write';
    const parts = this.hooks.parts();
    if (parts === null) return { remounted: false, error: `the mount of ${image} is starting or ending` };
    if (parts.disk.readOnly === readOnly) return { remounted: true };
    if (overlay?.isTemporary === true) {
      const error = `${image} can be given to nobody: it has no name, and a mount with snapshot keeps it to its end`;
      return { remounted: false, error };
    }
    try {
      if (readOnly) {
        await giveAway(parts);
      } else {
        await this.claimImage();
        await takeOver(parts);
      }
      this.note(readOnly);
      this.log('notice', `${image} is ${mode} from now on${readOnly ? ', and its locks are free' : ''}`);
      return { remounted: true };
    } catch (error) {
      const sentence = describeError(error);
      if (error instanceof TakeoverBrokenOff) this.isBrokenOff = true;
      this.log('error', `${image} could not be made ${mode}: ${sentence}`);
      if (error instanceof DiskLostError) {
        this.hooks.lost(sentence);
        return { remounted: false, error: sentence };
      }
      // given away, but not clean
      const remounted = this.hooks.parts()?.disk.readOnly === readOnly;
      this.note(remounted ? readOnly : !readOnly);
      return { remounted, error: sentence };
    }
  }

  private note(readOnly: boolean): void {
    if (readOnly) {
      this.claim?.release();
      this.claim = null;
    }
    // an image below an overlay keeps its writer
    this.shared = readOnly || (this.request.overlay !== undefined && this.request.share);
    this.hooks.changed(readOnly);
  }
}
