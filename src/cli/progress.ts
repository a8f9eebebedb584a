// A progress line on stderr, drawn only on a terminal and at most ten times a second. Invariant: it fits the width of the terminal,
// because the next line would not wipe a wrapped one.

import { showsErrorsOnTerminal } from '../host/descriptors.ts';
import { printError } from './output.ts';

const BAR_WIDTH_MAX = 30;
/** a shorter bar would say less than the percentage beside it */
const BAR_WIDTH_MIN = 5;
const COLUMNS_DEFAULT = 80;
const INTERVAL_MS = 100;

export class Progress {
  private readonly title: string;
  private readonly enabled: boolean;
  private drawnAt = 0;
  private drawn = false;

  constructor(title: string, enabled: boolean = showsErrorsOnTerminal()) {
    this.title = title;
    this.enabled = enabled;
  }

  /** @param fraction of the work that is done, 0 to 1 */
  update(fraction: number): void {
    if (!this.enabled) return;
    const now = performance.now();
    if (this.drawn && now - this.drawnAt < INTERVAL_MS) return;
    this.drawnAt = now;
    this.drawn = true;
    printError(`\r\x1b[K${formatProgress(this.title, fraction, terminalWidth())}`);
  }

  /** Wipes the line, so that what is printed next starts at the left edge. Call it before any other output. */
  clear(): void {
    if (!this.drawn) return;
    printError('\r\x1b[K');
    this.drawn = false;
  }
}

/** The current width of the terminal: the user may have changed it since the last line. */
function terminalWidth(): number {
  const [columns] = process.stderr.isTTY ? process.stderr.getWindowSize() : [0];
  return columns > 0 ? columns : COLUMNS_DEFAULT;
}

/** "checking [######........]  43%", in fewer columns than the terminal has */
export function formatProgress(title: string, fraction: number, columns: number): string {
  const share = Math.min(1, Math.max(0, fraction));
  const percent = `${Math.floor(share * 100)}%`.padStart(4);
  // the last column stays free: some terminals wrap when it is written
  const width = Math.min(BAR_WIDTH_MAX, columns - 1 - `${title} [] ${percent}`.length);
  if (width < BAR_WIDTH_MIN) {
    const text = `${title} ${percent}`;
    return text.slice(Math.max(0, text.length - columns + 1));
  }
  const filled = Math.round(share * width);
  return `${title} [${'#'.repeat(filled)}${'.'.repeat(width - filled)}] ${percent}`;
}
