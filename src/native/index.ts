// System calls that Node lacks, through koffi. Every function throws ImgfuseError with operation and errno; without
// koffi every function throws `unsupported` and nativeAvailable() is false. Usable from worker threads.

export { errnoName, systemCallError } from './errno.ts';
export { fallocate, lseek, lseekOrNone, willNeed } from './file-range.ts';
export { attachFuseDevice, hasRequest } from './fuse-device.ts';
export { addToMountTable, removeFromMountTable } from './libmount.ts';
export { nativeAvailable } from './library.ts';
export { linkDescriptor } from './link.ts';
export {
  type ConflictingLock,
  F_RDLCK,
  F_UNLCK,
  F_WRLCK,
  getOfdLock,
  type LockType,
  setOfdLock,
} from './locks.ts';
export * from './mount.ts';
export { closeOnExec, exitAtOnce, forbidCoreDumps } from './process.ts';
export { receiveDescriptor, sendDatagram, socketPair } from './sockets.ts';
export { setIoFlusher, yieldProcessor } from './thread.ts';
export { getAttribute, setAttribute } from './xattr.ts';
