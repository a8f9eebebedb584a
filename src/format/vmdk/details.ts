// What info and status say of an image, with QEMU's keys.

import type { ImageDetails } from '../image-format.ts';
import type { Descriptor, ExtentLine } from './descriptor/parse.ts';
import type { ExtentFacts } from './extent.ts';
import { identityOf, parentReference } from './parent.ts';

/** One extent as info shows it: plain data. */
export interface ExtentDetails {
  readonly filename: string;
  /** the word of the descriptor; empty for an extent that has the descriptor in it */
  readonly format: string;
  readonly 'virtual-size': number;
  /** absent: it has no grains */
  readonly 'cluster-size'?: number;
  readonly compressed?: true;
}

/** @param path of the descriptor @param facts of the extent's own header; null: it has none, or it was not looked at */
export function extentDetails(
  path: string,
  { length, name, type }: ExtentLine,
  facts: ExtentFacts | null,
  isEmbedding: boolean,
): ExtentDetails {
  return {
    filename: isEmbedding || name === null ? path : besideIt(path, name),
    format: isEmbedding ? '' : type,
    'virtual-size': facts?.capacity ?? length,
    ...(facts === null ? {} : { 'cluster-size': facts.grainBytes }),
    ...(facts?.isCompressed === true ? { compressed: true as const } : {}),
  };
}

function besideIt(path: string, name: string): string {
  return name.startsWith('/') ? name : path.slice(0, path.lastIndexOf('/') + 1) + name;
}

export interface Described {
  readonly path: string;
  readonly descriptor: Descriptor;
  readonly extents: readonly ExtentDetails[];
  /** as they are now */
  readonly cid: string;
  readonly modificationUuid: string | null;
  readonly virtualSize: number;
  readonly isDirty: boolean;
  /** one of its extents is */
  readonly isOnlyRead: boolean;
}

export function describe(facts: Described): ImageDetails {
  const { cid, descriptor, extents, isDirty, isOnlyRead, modificationUuid, path, virtualSize } = facts;
  const backing = parentReference(descriptor, path);
  return {
    format: 'vmdk',
    virtualSize,
    clusterSize: extents.find((extent) => extent['cluster-size'] !== undefined)?.['cluster-size'] ?? null,
    dirty: isDirty,
    isOnlyRead,
    ...(backing === null ? {} : { backing }),
    identity: identityOf(descriptor, cid, modificationUuid),
    specific: {
      cid: Number.parseInt(cid, 16),
      'parent-cid': Number.parseInt(descriptor.parentCid ?? 'ffffffff', 16),
      'create-type': descriptor.createType,
      extents,
    },
  };
}
