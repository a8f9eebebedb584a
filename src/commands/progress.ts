// A progress line on stderr, drawn only on a terminal and at most ten times a second.

import { isatty } from 'node:tty';
import { printError } from './output.ts';

const WIDTH = 30;
const INTERVAL_MS = 100;

export class Progress {
  readonly #title: string;
  readonly #enabled: boolean;
  #drawnAt = 0;
  #drawn = false;

  constructor(title: string, enabled: boolean = isatty(2)) {
    this.#title = title;
    this.#enabled = enabled;
  }

  /** @param fraction of the work that is done, 0 to 1 */
  update(fraction: number): void {
    if (!this.#enabled) return;
    const now = performance.now();
    if (this.#drawn && now - this.#drawnAt < INTERVAL_MS) return;
    this.#drawnAt = now;
    this.#drawn = true;
    printError(`\r${formatProgress(this.#title, fraction)}`);
  }

  /** Wipes the line, so that what is printed next starts at the left edge. Call it before any other output. */
  clear(): void {
    if (!this.#drawn) return;
    printError('\r\x1b[K');
    this.#drawn = false;
  }
}

/** "checking [######........]  43%" */
export function formatProgress(title: string, fraction: number): string {
  const share = Math.min(1, Math.max(0, fraction));
  const filled = Math.round(share * WIDTH);
  const percent = `${Math.floor(share * 100)}%`.padStart(4);
  return `${title} [${'#'.repeat(filled)}${'.'.repeat(WIDTH - filled)}] ${percent}`;
}
