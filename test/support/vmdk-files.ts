// VMDK images of several files in memory, for the models: what lies between the extents, and extents of different kinds in one image.
// Boundaries lie where the workloads write, and inside grains.

import { vmdk } from '../../src/format/vmdk/index.ts';
import { kindOf } from '../../src/format/vmdk/kinds.ts';
import { MemoryHostFile } from './memory-file.ts';
import { cowdBytes, SECTOR, sparseBytes } from './vmdk-bytes.ts';
import { descriptorText } from './vmdk-text.ts';
import type { Subject } from './workloads.ts';

/** Sectors at which extents end; the last one ends with the disk. */
const FIRST_END = 60;
const SIZE_OF_LAST = 100;

type Part = 'COWD' | 'flat' | 'sparse' | 'zero grains';

const MAKE: Readonly<Record<Part, { readonly type: string; readonly make: (sectors: number) => Buffer }>> = {
  sparse: { type: 'SPARSE', make: (capacity) => sparseBytes({ entries: [], capacity }) },
  'zero grains': { type: 'SPARSE', make: (capacity) => sparseBytes({ entries: [], capacity, zeroGrains: true }) },
  COWD: { type: 'VMFSSPARSE', make: (capacity) => cowdBytes({ entries: [], capacity }) },
  flat: { type: 'FLAT', make: (sectors) => Buffer.alloc(sectors * SECTOR) },
};

const KINDS: Readonly<Record<string, readonly [Part, Part, Part]>> = {
  'twoGbMaxExtentSparse, three files': ['sparse', 'sparse', 'sparse'],
  'vmfsSparse, three files': ['COWD', 'COWD', 'COWD'],
  'flat, three files': ['flat', 'flat', 'flat'],
  'flat between sparse': ['sparse', 'flat', 'zero grains'],
  'sparse, COWD and flat': ['zero grains', 'COWD', 'flat'],
};

/** One image of each kind; those that may have a parent also over one. */
export const SEVERAL_FILES: readonly Subject[] = Object.entries(KINDS).flatMap(([kind, parts]) => {
  const of = (withBacking: boolean): Subject => ({
    name: `vmdk, ${kind}${withBacking ? ', with a backing file' : ''}`,
    ...{ format: vmdk, options: {}, withBacking },
    make: (size) => makeFiles(parts, size / SECTOR, withBacking),
  });
  return parts.includes('flat') ? [of(false)] : [of(false), of(true)];
});

function makeFiles(
  parts: readonly Part[],
  sectors: number,
  withBacking: boolean,
): ReturnType<NonNullable<Subject['make']>> {
  const lengths = [FIRST_END, sectors - FIRST_END - SIZE_OF_LAST, SIZE_OF_LAST];
  const beside = parts.map((part, i) => new MemoryHostFile(MAKE[part].make(lengths[i]!), `/disk-${i + 1}.vmdk`));
  const extents = parts.map(
    (part, i) => `RW ${lengths[i]} ${MAKE[part].type} "disk-${i + 1}.vmdk"${part === 'flat' ? ' 0' : ''}`,
  );
  const parent = withBacking ? { parentCid: '1a2b3c4d', lines: ['parentFileNameHint="/base"'] } : {};
  const text = descriptorText({
    cid: '0badcafe',
    extents,
    ...parent,
    ddb: ['ddb.longContentID = "00000000111111112222222233333333"'],
  });
  return { start: new MemoryHostFile(Buffer.from(text), '/disk.vmdk'), beside };
}

/**
 * What the states of such an image must be like, which begins as `starts`: an extent without the mark has tables that hold together, and
 * as long as the descriptor has the old CID no extent has changed but for its mark. @returns null, or what is wrong
 */
export function markedBeforeChanged(
  starts: readonly MemoryHostFile[],
): (files: readonly MemoryHostFile[]) => string | null {
  const cid = cidOf(starts[0]!);
  const first = starts.map((file) => withoutMark(file));
  return (files) => {
    const isOld = cidOf(files[0]!) === cid;
    for (const [i, file] of files.entries()) {
      if (i === 0) continue;
      if (isOld && Buffer.compare(withoutMark(file), first[i]!) !== 0)
        return `extent ${i} has changed under the old CID`;
      const wrong = findingsOf(file);
      if (wrong.length > 0) return `extent ${i} is not marked, and has ${wrong.join('; ')}`;
    }
    return null;
  };
}

/** What the check of an extent without a mark calls corrupt. */
function findingsOf(file: MemoryHostFile): readonly string[] {
  const kind = kindOf(file);
  if (kind?.check === undefined || kind.inspect(file).isUnclean) return [];
  const found: string[] = [];
  const log = (sentence: string): void => void found.push(sentence);
  return kind.check(file, { repair: 'none', hasBacking: true, log }).corruptions > 0 ? found : [];
}

function cidOf(file: MemoryHostFile): string {
  return /^CID=(\w+)$/m.exec(Buffer.from(file.bytes()).toString('latin1'))![1]!;
}

/** Where the marks of hosted sparse and of COWD extents stand. */
const MARKS: Readonly<Record<string, number>> = { KDMV: 72, COWD: 1648 };

function withoutMark(file: MemoryHostFile): Uint8Array {
  const bytes = file.bytes();
  const at = MARKS[Buffer.from(bytes.subarray(0, 4)).toString('latin1')];
  if (at !== undefined) bytes[at] = 0;
  return bytes;
}
