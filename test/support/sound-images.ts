// Images of a workload that were found sound, by their fingerprints: an equal one is only compared with what the first one read.

import type { LegalValues } from './legal-values.ts';
import type { MemoryHostFile } from './memory-file.ts';
import { AREAS } from './workloads.ts';

/** The values of the sectors that workloads touch, a character each. */
export type Reads = string & { readonly reads: never };

export class SoundImages {
  private readonly images = new Map<string, Reads>();
  /** each of them once: most images of a workload read one of few contents */
  private readonly contents = new Map<Reads, Reads>();

  find(key: string): Reads | undefined {
    return this.images.get(key);
  }

  add(key: string, reads: Reads): void {
    const same = this.contents.get(reads) ?? reads;
    this.contents.set(same, same);
    this.images.set(key, same);
  }
}

/** The same for files that are equal byte by byte, with the same holes. */
export function keyOf(files: readonly MemoryHostFile[]): string {
  return files.length === 1 ? files[0]!.fingerprint() : files.map((file) => file.fingerprint()).join();
}

/** @param content the value of each sector of the disk */
export function readsOf(content: Uint8Array): Reads {
  return AREAS.map(({ first, end }) => Buffer.from(content.buffer, content.byteOffset + first, end - first))
    .map((area) => area.toString('latin1'))
    .join('') as Reads;
}

export function areLegal(reads: Reads, legal: LegalValues): boolean {
  let at = 0;
  for (const { first, end } of AREAS) {
    for (let sector = first; sector < end; sector++) {
      if (!legal.allows(sector, reads.charCodeAt(at++))) return false;
    }
  }
  return true;
}
