// What is known of a kind of content: how it is recognized, and what can be read of it. The table of kinds is kinds.ts.

import type { Volume } from './volume.ts';

/** filesystem: it can be mounted if the host has a driver; container: others lie inside (LVM, LUKS, RAID, ...); swap: no files at all. */
export type ContentUse = 'filesystem' | 'container' | 'swap';

/** What was read of a volume; what is not given is not known. */
export interface Details {
  /** instead of the kind's own, such as ext2 for ext4 */
  readonly type?: string;
  readonly use?: ContentUse;
  readonly label?: string | null;
  readonly uuid?: string | null;
  readonly needsRecovery?: boolean | null;
}

export interface Magic {
  /** bytes from the start of the volume */
  readonly at: number;
  /** one character for each byte */
  readonly bytes: string;
}

export interface Kind {
  /** the TYPE of blkid */
  readonly type: string;
  readonly use: ContentUse;
  /** one of them stands there; a kind without any is recognized by `describe` */
  readonly magics: readonly Magic[];
  /** what can be read of it; null if it is not this kind after all */
  readonly describe?: (volume: Volume) => Details | null;
}
