// The outcome of a check: the counters that qemu-img prints, under its names, and the exit code that follows from them.

import { plural } from '../errors/plural.ts';

export type RepairMode = 'none' | 'leaks' | 'all';

export interface CheckReport {
  readonly format: string;
  /** clusters of the virtual disk */
  totalClusters: number;
  /** of those, with data in this file */
  allocatedClusters: number;
  /** allocated clusters that do not follow their predecessor in the file, and compressed ones */
  fragmentedClusters: number;
  /** of the allocated clusters, those that are compressed */
  compressedClusters: number;
  /** bytes of the file that are in use */
  imageEndOffset: number;
  corruptions: number;
  leaks: number;
  corruptionsFixed: number;
  leaksFixed: number;
  /** places that could not be checked (read errors) */
  checkErrors: number;
}

export function emptyCheckReport(format: string): CheckReport {
  return {
    format,
    totalClusters: 0,
    allocatedClusters: 0,
    fragmentedClusters: 0,
    compressedClusters: 0,
    imageEndOffset: 0,
    corruptions: 0,
    leaks: 0,
    corruptionsFixed: 0,
    leaksFixed: 0,
    checkErrors: 0,
  };
}

/** Exit code of `check`, as qemu-img: 0 consistent or repaired, 1 not completed, 2 corrupt, 3 leaks only. */
export function checkExitCode(report: CheckReport): number {
  if (report.checkErrors > 0) return 1;
  if (report.corruptions > report.corruptionsFixed) return 2;
  if (report.leaks > report.leaksFixed) return 3;
  return 0;
}

/**
 * A repair is believed only when the image reads back true. @param left errors that a second look finds, beside those that were not
 * repaired @returns whether it does
 */
export function believeRepair(report: CheckReport, left: number, log: (sentence: string) => void): boolean {
  if (left === 0) return true;
  log(`ERROR ${plural(left, 'error')} left after the repair: the host does not keep what is written to it`);
  report.checkErrors++;
  return false;
}

/** Findings that are told one by one: an image in which everything is wrong must not fill memory, a log or a terminal. */
export const MAX_FINDINGS = 1000;

/** Passes on so many sentences; then says once that the others are counted only. */
export function limitedLog(log: (sentence: string) => void): (sentence: string) => void {
  let told = 0;
  return (sentence) => {
    told++;
    if (told <= MAX_FINDINGS) log(sentence);
    else if (told === MAX_FINDINGS + 1) log('Further findings are counted and not printed');
  };
}
