// Whole VMDK images of kinds that are only read, with their descriptors.

import { contentOf, NONE, type StreamRecipe, seSparseBytes, streamBytes, trackedSparse, ZERO } from './vmdk-bytes.ts';
import { descriptorText } from './vmdk-text.ts';

export interface ReadOnlyVmdk {
  readonly image: Buffer;
  /** a file of its own; absent: the image is one file */
  readonly extent?: Buffer;
  readonly content: Buffer;
}

const GRAIN = 4096;

/** A streamOptimized image: grains with data and without, in several tables, and a last one that is not whole. */
export function streamImage(recipe: Omit<StreamRecipe, 'capacity' | 'grains'> = {}): ReadOnlyVmdk {
  const grains = Array.from({ length: 300 }, (_, n) =>
    n % 3 === 1 || (n >= 40 && n < 200) ? null : Buffer.alloc(GRAIN, `grain ${n} `),
  );
  const content = Buffer.concat(grains.map((grain) => grain ?? Buffer.alloc(GRAIN))).subarray(0, 299 * GRAIN + 1536);
  const capacity = content.length / 512;
  const descriptor = descriptorText({ createType: 'streamOptimized', extents: [`RDONLY ${capacity} SPARSE "x.vmdk"`] });
  return { image: streamBytes({ grains, capacity, descriptor, ...recipe }), content };
}

/** An image of version 3 whose changed blocks are tracked in another file. */
export function trackedImage(): ReadOnlyVmdk {
  const recipe = { entries: [0, 1, NONE, 3, ZERO, 2], capacity: 300 * 8 + 3, zeroGrains: true };
  const descriptor = descriptorText({
    lines: ['changeTrackPath="x-ctk.vmdk"'],
    extents: [`RW ${recipe.capacity} SPARSE "x.vmdk"`],
  });
  return { image: trackedSparse({ ...recipe, descriptor }), content: contentOf(recipe) };
}

/** A descriptor and an SESparse extent with entries of all kinds. */
export function seSparseImage(): ReadOnlyVmdk {
  const entries = Array.from({ length: 5000 }, (_, n) => {
    if (n >= 700 && n < 4500) return 'none';
    return (['none', 'zero', 'unmapped'] as const)[n % 7] ?? (n % 11 < 5 ? n % 700 : 699 - (n % 700));
  });
  const extent = seSparseBytes(entries);
  const data = extent.subarray(extent.length - 700 * GRAIN);
  const content = Buffer.alloc(entries.length * GRAIN);
  for (const [n, entry] of entries.entries()) {
    if (typeof entry === 'number') data.copy(content, n * GRAIN, entry * GRAIN, (entry + 1) * GRAIN);
  }
  const line = `RW ${content.length / 512} SESPARSE "x-sesparse.vmdk"`;
  return { image: Buffer.from(descriptorText({ createType: 'seSparse', extents: [line] })), extent, content };
}
