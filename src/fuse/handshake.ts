// INIT: the first request of a connection, answered on the main thread before any worker starts. What is agreed is
// plain data that workers get by message.

import { ERRNO, ImgfuseError } from '../errors/index.ts';
import * as abi from './abi.ts';
import type { Channel } from './device.ts';

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
const CONGESTION_THRESHOLD = 48;

/** native-notes/fuse-protocol.md says why each of them is here, and why others are not. */
export const WANTED_FLAGS =
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
export const WANTED_FLAGS2 = abi.FUSE_DIRECT_IO_ALLOW_MMAP;

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
 * @throws ImgfuseError unsupported when the kernel speaks another major version or is older than Linux 3.15
 */
export function negotiate(offer: KernelOffer, pageSize: number, timeout = 0): Protocol {
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
  const maxPages = Math.max(1, Math.min(pagesLimit, MAX_WRITE / pageSize));
  return {
    major: abi.FUSE_KERNEL_VERSION,
    minor: Math.min(offer.minor, abi.FUSE_KERNEL_MINOR_VERSION),
    flags,
    flags2,
    maxWrite: Math.min(MAX_WRITE, maxPages * pageSize),
    maxPages,
    maxReadahead: offer.maxReadahead,
    maxBackground: MAX_BACKGROUND,
    congestionThreshold: CONGESTION_THRESHOLD,
    requestTimeout: flags2 & abi.FUSE_REQUEST_TIMEOUT ? timeout : 0,
  };
}

/**
 * Waits for INIT, answers it, and returns what was agreed. Synchronous: the kernel sends INIT as soon as it has mounted,
 * and sends nothing else before it is answered.
 */
export function serveInit(channel: Channel, pageSize: number, timeout = 0): Protocol {
  const message = new Uint8Array(Math.max(abi.FUSE_MIN_READ_BUFFER, MAX_WRITE + 4096));
  let received = channel.receive(message);
  while (received === 0) received = channel.receive(message);
  if (typeof received === 'string') throw new ImgfuseError('io', `the mount was ${received} before it was ready`);
  const unique = message.slice(abi.fuse_in_header.unique, abi.fuse_in_header.unique + 8);
  try {
    const protocol = negotiate(decodeInit(message, received), pageSize, timeout);
    const answer = encodeInit(protocol, unique);
    channel.send(answer, answer.length);
    return protocol;
  } catch (error) {
    const refusal = encodeHeader(new Uint8Array(abi.fuse_out_header.$bytes), -ERRNO.EPROTO, unique);
    channel.send(refusal, refusal.length);
    throw error;
  }
}

/** @throws ImgfuseError io when the message is no INIT request */
export function decodeInit(message: Uint8Array, length: number): KernelOffer {
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
  const body = abi.fuse_in_header.$bytes;
  const isInit =
    length >= body + abi.FUSE_COMPAT_INIT_IN_SIZE &&
    view.getUint32(abi.fuse_in_header.len, true) === length &&
    view.getUint32(abi.fuse_in_header.opcode, true) === abi.FUSE_INIT;
  if (!isInit) throw new ImgfuseError('io', 'the first request of the connection is not INIT: is it served already?');
  const flags = view.getUint32(body + abi.fuse_init_in.flags, true);
  const hasFlags2 = (flags & abi.FUSE_INIT_EXT) !== 0 && length >= body + abi.fuse_init_in.flags2 + 4;
  return {
    major: view.getUint32(body + abi.fuse_init_in.major, true),
    minor: view.getUint32(body + abi.fuse_init_in.minor, true),
    maxReadahead: view.getUint32(body + abi.fuse_init_in.max_readahead, true),
    flags,
    flags2: hasFlags2 ? view.getUint32(body + abi.fuse_init_in.flags2, true) : 0,
  };
}

/** The whole reply, out header included. */
export function encodeInit(protocol: Protocol, unique: Uint8Array): Uint8Array {
  const reply = new Uint8Array(abi.fuse_out_header.$bytes + abi.fuse_init_out.$bytes);
  const view = new DataView(reply.buffer, abi.fuse_out_header.$bytes);
  view.setUint32(abi.fuse_init_out.major, protocol.major, true);
  view.setUint32(abi.fuse_init_out.minor, protocol.minor, true);
  view.setUint32(abi.fuse_init_out.max_readahead, protocol.maxReadahead, true);
  view.setUint32(abi.fuse_init_out.flags, protocol.flags, true);
  view.setUint16(abi.fuse_init_out.max_background, protocol.maxBackground, true);
  view.setUint16(abi.fuse_init_out.congestion_threshold, protocol.congestionThreshold, true);
  view.setUint32(abi.fuse_init_out.max_write, protocol.maxWrite, true);
  view.setUint32(abi.fuse_init_out.time_gran, 1, true);
  view.setUint16(abi.fuse_init_out.max_pages, protocol.maxPages, true);
  view.setUint32(abi.fuse_init_out.flags2, protocol.flags2, true);
  view.setUint16(abi.fuse_init_out.request_timeout, protocol.requestTimeout, true);
  return encodeHeader(reply, 0, unique);
}

function encodeHeader(reply: Uint8Array, error: number, unique: Uint8Array): Uint8Array {
  const view = new DataView(reply.buffer);
  view.setUint32(abi.fuse_out_header.len, reply.length, true);
  view.setInt32(abi.fuse_out_header.error, error, true);
  reply.set(unique, abi.fuse_out_header.unique);
  return reply;
}
