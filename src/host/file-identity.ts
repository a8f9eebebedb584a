// What tells two names of one file apart from two files: device and inode, exact. Inode numbers have 64 bits, and file systems
// that join others (overlayfs, mergerfs, NFS) use the upper ones: as JavaScript numbers, neighbours there become one.
// The numbers are only compared, so they are kept as digits.

export interface FileIdentity {
  readonly device: string;
  readonly inode: string;
}

/** @param stats of fs.stat with `bigint: true`, which takes the sign of 64 bits */
export function identityOf({ dev, ino }: { readonly dev: bigint; readonly ino: bigint }): FileIdentity {
  return { device: String(BigInt.asUintN(64, dev)), inode: String(BigInt.asUintN(64, ino)) };
}

export function isSameFile(one: FileIdentity, other: FileIdentity): boolean {
  return one.device === other.device && one.inode === other.inode;
}
