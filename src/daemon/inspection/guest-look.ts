// Looks into the disk of a mount for its status. What cannot be told is left out, and said in the log: the status itself is never
// refused for it. Invariant: no look begins after end(), and when that resolves none is under way, so that the disk may be closed.

import { describeError } from '../../errors/index.ts';
import { abandonTree } from '../../filesystem/index.ts';
import type { Log } from '../log.ts';
import { tableLog } from '../refusal-log.ts';
import type { ServedDisk } from '../served-disk.ts';
import type { Serving } from '../serving.ts';
import type { ServingWords } from '../workers/serving-words.ts';
import type { DiskInspector } from './disk-inspector.ts';
import type { GuestStatus } from './guest-status.ts';

/** The disk may be exchanged while a look is on its way. */
const TRIES = 3;

export interface GuestLookParts {
  readonly disk: ServedDisk;
  readonly words: ServingWords;
  /** of the inspector, among the threads that use the disk */
  readonly slot: number;
  readonly log: Log;
}

export class GuestLook {
  private readonly parts: GuestLookParts;
  private readonly noteDamage: (sentence: string) => void;
  private inspector: DiskInspector | null = null;
  private isEnded = false;
  private lastTrouble = '';

  constructor(parts: GuestLookParts) {
    this.parts = parts;
    this.noteDamage = tableLog(parts.log);
  }

  /** @param diskFile the whole disk in the mount, for programs that look into it; null: there is no such file */
  async status(serving: Serving, diskFile: string | null): Promise<GuestStatus> {
    try {
      return await this.look(serving, diskFile);
    } catch (error) {
      const trouble = describeError(error);
      if (trouble !== this.lastTrouble) this.parts.log('warning', `status tells nothing of partitions: ${trouble}`);
      this.lastTrouble = trouble;
      return {};
    }
  }

  async end(): Promise<void> {
    this.isEnded = true;
    await this.inspector?.end();
  }

  private async look(serving: Serving, diskFile: string | null): Promise<GuestStatus> {
    const [{ DiskInspector }, { guestStatus }] = await Promise.all([
      import('./disk-inspector.ts'),
      import('./guest-status.ts'),
    ]);
    const { disk, words, slot, log } = this.parts;
    const tree = serving.tree.shows.includes('partitions') ? serving.tree : null;
    for (let tries = 0; tries < TRIES && !this.isEnded; tries++) {
      this.inspector ??= new DiskInspector((error, threadId) => {
        log('warning', `a thread that looked into the disk has ended: ${describeError(error)}`);
        disk.abandon(threadId, slot);
        abandonTree(serving.tree, threadId);
        words.putDown(slot);
      });
      const { generation } = words;
      const what = { disk: disk.shared!, tree, words: words.shared, slot, generation };
      const report = await this.inspector.inspect(what);
      for (const each of report?.table.warnings ?? []) this.noteDamage(each);
      if (report !== null) return guestStatus(report, this.isEnded ? null : diskFile);
    }
    return {};
  }
}
