// The first look at an image beside its writer (share, or no locks at all): a header or footer that is half written looks damaged, and is
// whole a moment later. What is looked at later is image-beside-writer.ts.

import { sleepMs, steadyMs } from '../../concurrency/clock.ts';
import { isCorrupt } from '../../errors/index.ts';
import { WAITS_MS } from './image-beside-writer.ts';

/** A look that takes long, because of tables to walk, is not taken again. */
const LONGEST_MS = 250;

type Log = (sentence: string) => void;

/**
 * Takes a look again as long as it finds damage, for a quarter of a second at most. Each begins anew; a sentence that several of them
 * have is said once.
 * @param mayHaveWriter false: what is damaged stays so
 */
export function lookUntilWhole<T>(mayHaveWriter: boolean, log: Log | undefined, look: (log: Log | undefined) => T): T {
  if (!mayHaveWriter) return look(log);
  const said = new Set<string>();
  const sayOnce: Log | undefined =
    log &&
    ((sentence) => {
      if (!said.has(sentence)) log(sentence);
      said.add(sentence);
    });
  const end = steadyMs() + LONGEST_MS;
  for (const wait of WAITS_MS) {
    try {
      return look(sayOnce);
    } catch (error) {
      if (!isCorrupt(error) || steadyMs() >= end) throw error;
    }
    sleepMs(wait);
  }
  return look(sayOnce);
}
