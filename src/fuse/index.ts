// The FUSE transports: what serves a Filesystem to the kernel, and what mounts, finds and ends mounts.

export { createCounters, readCounters, totalRequests } from './counters.ts';
export { type Channel, type ConnectionEnd, Device, mayHaveRequest } from './device.ts';
export type {
  AttributeChange,
  Attributes,
  DirectoryEntry,
  Filesystem,
  LateFilesystem,
  Statfs,
} from './filesystem.ts';
export {
  type FuseNativeOptions,
  type FuseNativeSession,
  fuseNativeAvailable,
  mountFuseNative,
} from './fuse-native.ts';
export { answerAfterDrop } from './invalidate.ts';
export { type LateDrop, ServedPages } from './kernel-pages.ts';
export { answerLate } from './late-requests.ts';
export { type KernelMountOptions, mountKernel } from './mount.ts';
export { type FuseMountOptions, flagsLeftOut } from './mount-flags.ts';
export { FUSE_TYPE, findMount, isImgfuse, listMounts, type MountEntry, mountsOfConnection } from './mount-table.ts';
export type { Protocol } from './protocol.ts';
export { requesterOf } from './request.ts';
export { answerTimeMs, connectionLimit, requestTimeouts } from './request-timeout.ts';
export { FuseServer, type ServeEnd, type ServerHooks } from './server.ts';
export type { KernelSession } from './session.ts';
export { abortConnection, assertNotCovered, type UnmountOptions, unmountPath } from './unmount.ts';

/** How requests reach us: our own implementation of the kernel protocol, or the fuse-native package. */
export type Transport = 'kernel' | 'fuse-native';
