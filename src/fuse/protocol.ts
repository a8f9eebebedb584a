// What is agreed with the kernel for the life of a connection: the version, the flags and the sizes of requests. Plain data
// that workers get by message. native-notes/fuse-protocol.md says why each flag is wanted, and why others are not.

import { ERRNO, ImgfuseError } from '../errors/index.ts';
import * as abi from './abi.ts';

/** What the kernel and we agreed on; cloneable. */
export interface Protocol {
  readonly major: number;
  readonly minor: number;
  readonly flags: number;
  readonly flags2: number;
  /** bytes of the largest WRITE and of the largest READ */
  readonly maxWrite: number;
  readonly maxPages: number;
  readonly maxReadahead: number;
  readonly maxBackground: number;
  readonly congestionThreshold: number;
  /** seconds after which the kernel ends the connection over an unanswered request; 0: none is asked for */
  readonly requestTimeout: number;
}

/** Largest READ and WRITE: 256 pages, the most that the kernel takes without being reconfigured. */
export const MAX_WRITE = 1024 * 1024;
/** Without FUSE_MAX_PAGES the kernel stays at 32 pages. */
const MAX_PAGES_WITHOUT_FLAG = 32;
const MAX_PAGES = 256;
const MAX_BACKGROUND = 64;
/**
 * The same where writes may be held for space: held ones count, and at the limit the kernel keeps back asynchronous reads, too. A
 * loop device has up to 128 requests under way, of two messages each.
 */
const MAX_BACKGROUND_HOLDING = 512;

const WANTED_FLAGS =
  abi.FUSE_ASYNC_READ |
  abi.FUSE_ATOMIC_O_TRUNC |
  abi.FUSE_EXPORT_SUPPORT |
  abi.FUSE_BIG_WRITES |
  abi.FUSE_DO_READDIRPLUS |
  abi.FUSE_READDIRPLUS_AUTO |
  abi.FUSE_ASYNC_DIO |
  abi.FUSE_PARALLEL_DIROPS |
  abi.FUSE_ABORT_ERROR |
  abi.FUSE_MAX_PAGES |
  abi.FUSE_EXPLICIT_INVAL_DATA |
  abi.FUSE_HANDLE_KILLPRIV_V2 |
  abi.FUSE_INIT_EXT;
const WANTED_FLAGS2 = abi.FUSE_DIRECT_IO_ALLOW_MMAP;

/** Whether the kernel drops the pages that other handles use when one writes past them: FOPEN_DIRECT_IO of Linux 6.6 and later. */
export function dropsPagesOfOthers({ minor }: Pick<Protocol, 'minor'>): boolean {
  return minor >= abi.FUSE_DIRECT_WRITES_DROP_PAGES_MINOR_VERSION;
}

/** The fields of fuse_init_in. */
export interface KernelOffer {
  readonly major: number;
  readonly minor: number;
  readonly maxReadahead: number;
  readonly flags: number;
  readonly flags2: number;
}

/**
 * @param pageSize of the kernel, in bytes
 * @param timeout seconds that a request may take, to be asked for; 0: whatever the kernel has
 * @param holds writes may be held for space
 * @throws ImgfuseError unsupported if the kernel speaks another major version or is older than Linux 3.15
 */
export function negotiate(offer: KernelOffer, pageSize: number, timeout = 0, holds = false): Protocol {
  if (offer.major !== abi.FUSE_KERNEL_VERSION || offer.minor < abi.FUSE_OLDEST_MINOR_VERSION) {
    throw new ImgfuseError(
      'unsupported',
      `the kernel speaks FUSE ${offer.major}.${offer.minor}; ` +
        `${abi.FUSE_KERNEL_VERSION}.${abi.FUSE_OLDEST_MINOR_VERSION} or a later ${abi.FUSE_KERNEL_VERSION}.x is needed`,
      { errno: ERRNO.EPROTO },
    );
  }
  const flags = offer.flags & WANTED_FLAGS;
  const wanted2 = WANTED_FLAGS2 | (timeout === 0 ? 0 : abi.FUSE_REQUEST_TIMEOUT);
  const flags2 = flags & abi.FUSE_INIT_EXT ? offer.flags2 & wanted2 : 0;
  const pagesLimit = flags & abi.FUSE_MAX_PAGES ? MAX_PAGES : MAX_PAGES_WITHOUT_FLAG;
  const maxBackground = holds ? MAX_BACKGROUND_HOLDING : MAX_BACKGROUND;
  const maxPages = Math.max(1, Math.min(pagesLimit, MAX_WRITE / pageSize));
  return {
    major: abi.FUSE_KERNEL_VERSION,
    minor: Math.min(offer.minor, abi.FUSE_KERNEL_MINOR_VERSION),
    flags,
    flags2,
    maxWrite: Math.min(MAX_WRITE, maxPages * pageSize),
    maxPages,
    maxReadahead: offer.maxReadahead,
    maxBackground,
    congestionThreshold: (maxBackground * 3) / 4,
    requestTimeout: flags2 & abi.FUSE_REQUEST_TIMEOUT ? timeout : 0,
  };
}
