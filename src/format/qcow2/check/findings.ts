// The faults that a check finds: one sentence each, and counts by what a repair can do about them.

import { hex } from '../../../bytes/offsets.ts';
import { type CheckReport, emptyCheckReport } from '../../check-report.ts';

/** Further wrong flags are counted, but not named. */
const MAX_FLAG_SENTENCES = 1000;

export class Findings {
  readonly report: CheckReport = emptyCheckReport('qcow2');
  unrepairableCount = 0;
  /** faults of the refcount table and its blocks, which only a rebuild repairs */
  structureFaults = 0;
  /** entries and tables that could not be followed: a cluster without counted references may still be in use */
  unfollowed = 0;
  /** COPIED flags that disagree with the counters */
  flagFaults = 0;
  /** those of them that are needlessly clear: they cost a copy and harm nothing */
  harmlessFlags = 0;
  readonly flagSentences: string[] = [];
  private readonly log: (sentence: string) => void;

  /** @param log called once per finding; the sentence of a corruption starts with "ERROR " */
  constructor(log: (sentence: string) => void) {
    this.log = log;
  }

  /** A corruption that a repair removes. */
  repairable(sentence: string): void {
    this.report.corruptions++;
    this.log(`ERROR ${sentence}`);
  }

  /** A corruption that no repair removes, because nothing safe can be put in its place. */
  unrepairable(sentence: string): void {
    this.unrepairableCount++;
    this.repairable(sentence);
  }

  /** A corruption of the refcount table or its blocks. */
  structureFault(sentence: string): void {
    this.structureFaults++;
    this.repairable(sentence);
  }

  /** A corruption that hides references: leaks must not be freed. */
  cannotFollow(sentence: string): void {
    this.unfollowed++;
    this.unrepairable(sentence);
  }

  /** A wrong COPIED flag. It becomes a corruption later (reportFlags), because a repair of the counters may make it right. */
  flagFault(sentence: string): void {
    this.flagFaults++;
    if (this.flagSentences.length < MAX_FLAG_SENTENCES) this.flagSentences.push(sentence);
  }
}

export function flagSentence(at: number, copied: boolean): string {
  return `the entry at offset ${hex(at)} has COPIED ${copied ? 'set' : 'clear'}, but its cluster is ${copied ? '' : 'not '}shared`;
}

/** @param offset NaN if the 64 bits on disk are not a safe integer */
export function showOffset(offset: number): string {
  return Number.isNaN(offset) ? 'an impossible offset' : hex(offset);
}
