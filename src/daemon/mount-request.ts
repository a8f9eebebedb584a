// What a mount process is told: the whole of a mount as plain data, which is its argument as JSON. The command line makes it
// (mount-arguments.ts) in the command's process; everything that serves the mount reads it in the mount process.

import type { LockMode } from '../disk/index.ts';

export const TRANSPORTS = ['auto', 'kernel', 'fuse-native'] as const;
export type TransportChoice = (typeof TRANSPORTS)[number];

/** Everything a mount process needs to know; plain data, with absolute paths. */
export interface MountRequest {
  /** without symbolic links: by this it is recorded and found again */
  readonly image: string;
  /** as the user named it, its directory resolved: relative names in the image count from there */
  readonly imageName: string;
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
  /** absent: as it is stored with the image */
  readonly copyOnRead?: boolean;
  readonly workers: number;
  readonly transport: TransportChoice;
  readonly source: string;
  readonly format?: string;
  /** where the password comes from; the mount process is handed the password itself in another way */
  readonly keyFile?: string;
  readonly keyEnv?: string;
  /** passwords follow on the report channel of the mount process */
  readonly passwordsFollow?: boolean;
  readonly maxRead?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly umask?: number;
  readonly pidFile?: string;
  /** print what was mounted, as JSON */
  readonly json: boolean;
}
