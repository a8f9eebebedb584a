// The request for a mount: plain data, passed to the mount process as JSON in its argument. The command makes it in its own
// process (mount-arguments.ts); the mount process reads it.

import type { LockMode } from '../disk/index.ts';

export const TRANSPORTS = ['auto', 'kernel', 'fuse-native'] as const;
export type TransportChoice = (typeof TRANSPORTS)[number];

/** What becomes of a write for which the host has no space: it fails with ENOSPC, or it is held until there is space. */
export const FULL_POLICIES = ['report', 'wait'] as const;
export type FullPolicy = (typeof FULL_POLICIES)[number];

/** The file for the changes of a disk whose image is not written. */
export interface OverlayRequest {
  /** the directory, if it is temporary */
  readonly path: string;
  readonly isTemporary: boolean;
}

/** Everything that a mount process needs; all paths are absolute. */
export interface MountRequest {
  /** without symbolic links, for the record and for finding the mount */
  readonly image: string;
  /** as the user named it, with a resolved directory: names in the image are relative to that */
  readonly imageName: string;
  /** takes the changes; absent: the image does */
  readonly overlay?: OverlayRequest;
  readonly mountpoint: string;
  readonly readOnly: boolean;
  readonly foreground: boolean;
  readonly debug: boolean;
  readonly locks: LockMode;
  /** read-only beside a writer; the mount can take the image over later */
  readonly share: boolean;
  readonly allowOther: boolean;
  readonly defaultPermissions: boolean;
  readonly lazyRefcounts: boolean;
  readonly anyParent: boolean;
  readonly flags: readonly string[];
  readonly allowBacking: readonly string[];
  /** absent: as stored in the image */
  readonly copyOnRead?: boolean;
  readonly full: FullPolicy;
  readonly workers: number;
  readonly transport: TransportChoice;
  readonly source: string;
  readonly format?: string;
  /** the source of the password; the password itself comes another way */
  readonly keyFile?: string;
  readonly keyEnv?: string;
  /** passwords follow on the report channel of the mount process */
  readonly passwordsFollow?: boolean;
  readonly maxRead?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly umask?: number;
  /** the one partition that is shown, as the mountpoint itself */
  readonly partition?: number;
  readonly pidFile?: string;
  /** print what was mounted, as JSON */
  readonly json: boolean;
}

/** The threads that act on requests, in the slots from 1 on: the workers, and the waiting room of full=wait. */
export function servingThreads({ full, workers }: Pick<MountRequest, 'full' | 'workers'>): number {
  return full === 'wait' ? workers + 1 : workers;
}
