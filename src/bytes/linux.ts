// Numbers of Linux's system calls that more than one folder knows and that Node has no names for.

/** Mode bits of fallocate(2), as in <linux/falloc.h>. */
export const FALLOC_FL_KEEP_SIZE = 0x01;
export const FALLOC_FL_PUNCH_HOLE = 0x02;
export const FALLOC_FL_ZERO_RANGE = 0x10;

/** Of lseek(2). */
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

/** Of open(2); the value of O_DIRECT depends on the architecture. */
export const O_TRUNC = 0o1000;
export const O_DIRECT = { arm: 0o200000, arm64: 0o200000, ppc64: 0o400000 }[process.arch as string] ?? 0o40000;

/** File types in st_mode. */
export const S_IFMT = 0o170000;
export const S_IFDIR = 0o040000;
export const S_IFREG = 0o100000;

/** advice of posix_fadvise(2) */
export const POSIX_FADV_WILLNEED = 3;
