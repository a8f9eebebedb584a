// The disk layer as commands and filesystem see it.

export { type CheckReport, checkExitCode, limitedLog, type RepairMode } from '../format/check-report.ts';
export type { OpenStep, ReadableSnapshot } from '../format/image-format.ts';
export { parseSize } from '../format/size.ts';
export type { LockMode } from '../host/image-locks.ts';
export type { ChainExtent } from './chain.ts';
export { type CheckDiskOptions, checkDisk } from './check.ts';
export { type CreateDiskOptions, createDisk } from './create.ts';
export type { DiskStatus, NetworkStatus } from './disk-status.ts';
export { type DiskInfo, inspectDisk } from './info.ts';
export { logLongHolds } from './long-holds.ts';
export type { CommitResult } from './merge/commit.ts';
export { type CommitDiskOptions, type DiskCommit, openCommit } from './merge/commit-disk.ts';
export type { CopyResult } from './merge/rebase.ts';
export { type DiskRebase, openRebase, type RebaseDiskOptions } from './merge/rebase-disk.ts';
export { attachDisk, closeAndReopenDisk, openDisk, reopenDisk } from './open.ts';
export type { OpenDiskOptions } from './open-options.ts';
export type { OverlaidImage } from './overlay.ts';
export { formatByName, formats } from './registry.ts';
export type { SnapshotDisk } from './snapshot-disk.ts';
export { type SharedDisk, VirtualDisk } from './virtual-disk.ts';
