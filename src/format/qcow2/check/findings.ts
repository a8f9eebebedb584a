// What a check finds wrong: said in sentences, and counted by what a repair can do about it.

import { hex } from '../../../bytes/offsets.ts';
import { type CheckReport, emptyCheckReport } from '../../check-report.ts';

/** Findings of one kind that are kept as sentences. */
const MAX_FLAG_SENTENCES = 1000;

export class Findings {
  readonly report: CheckReport = emptyCheckReport('qcow2');
  unrepairableCount = 0;
  /** findings that say that the refcount table or its blocks cannot be used as they are */
  structureFaults = 0;
  /** entries and tables that could not be followed: some cluster may be in use that no count shows */
  unfollowed = 0;
  /** COPIED flags that are not what the counters say */
  flagFaults = 0;
  /** of those, flags that are clear where nothing is shared: they cost a copy and harm nothing */
  harmlessFlags = 0;
  readonly flagSentences: string[] = [];
  private readonly log: (sentence: string) => void;

  /** @param log takes one sentence per finding, corruptions with "ERROR " before them */
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

  structureFault(sentence: string): void {
    this.structureFaults++;
    this.repairable(sentence);
  }

  cannotFollow(sentence: string): void {
    this.unfollowed++;
    this.unrepairable(sentence);
  }

  /** Logged and counted as a corruption later, when nothing worse hides what the flags should be. */
  flagFault(sentence: string): void {
    this.flagFaults++;
    if (this.flagSentences.length < MAX_FLAG_SENTENCES) this.flagSentences.push(sentence);
  }
}

export function flagSentence(at: number, copied: boolean): string {
  return `the entry at offset ${hex(at)} has COPIED ${copied ? 'set' : 'clear'}, but its cluster is ${copied ? '' : 'not '}shared`;
}

/** NaN is what no number can say. */
export function showOffset(offset: number): string {
  return Number.isNaN(offset) ? 'an impossible offset' : hex(offset);
}
