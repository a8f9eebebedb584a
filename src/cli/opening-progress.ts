// Output of the mounting command while an image is being opened: if a step takes longer than a moment, it says what it waits for,
// and on a terminal how far the step is. The open itself runs in another thread or process.

import type { OpenStep } from '../disk/index.ts';
import { showsErrorsOnTerminal } from '../host/descriptors.ts';
import { complain } from './output.ts';
import { Progress } from './progress.ts';

/** Starts with the first step that may take long; before that it prints nothing. */
const PATIENCE_MS = 2000;

export class OpeningProgress {
  private readonly isTerminal: boolean;
  private timer: NodeJS.Timeout | null = null;
  private isPatient = true;
  private step: OpenStep | null = null;
  private told = '';
  private bar: Progress | null = null;

  constructor(isTerminal: boolean = showsErrorsOnTerminal()) {
    this.isTerminal = isTerminal;
  }

  update(step: OpenStep): void {
    this.step = step;
    if (!this.isPatient) return this.tell(step);
    this.timer ??= setTimeout(() => {
      this.isPatient = false;
      if (this.step !== null) this.tell(this.step);
    }, PATIENCE_MS);
  }

  /** Wipes the progress line. Call it before any other output. */
  clear(): void {
    this.bar?.clear();
  }

  /** Call it when the image is open, or the open has failed. */
  end(): void {
    clearTimeout(this.timer ?? undefined);
    this.step = null;
    this.clear();
  }

  private tell({ doing, fraction }: OpenStep): void {
    if (this.told !== doing) {
      this.clear();
      this.bar = new Progress(doing, this.isTerminal);
    }
    if (this.isTerminal && fraction !== undefined) this.bar?.update(fraction);
    else if (this.told !== doing) complain(`${doing} ...`);
    this.told = doing;
  }
}
