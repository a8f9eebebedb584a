// INIT: the first request of a connection, answered on the main thread before any worker starts.

import { ERRNO, ImgfuseError } from '../errors/index.ts';
import * as abi from './abi.ts';
import type { Channel } from './device.ts';
import { type KernelOffer, MAX_WRITE, negotiate, type Protocol } from './protocol.ts';
import { Reply } from './reply.ts';
import { RECEIVE_HEADROOM, Request } from './request.ts';

/**
 * Waits for INIT, answers it, and returns what was agreed. Synchronous: the kernel sends INIT as soon as it has mounted,
 * and sends nothing else before it is answered.
 * @param pageSize of the kernel, in bytes @param timeout seconds that a request may take; 0: whatever the kernel has
 * @param holds writes may be held for space
 */
export function serveInit(channel: Channel, pageSize: number, timeout = 0, holds = false): Protocol {
  const request = new Request(MAX_WRITE + RECEIVE_HEADROOM);
  const reply = new Reply(abi.fuse_init_out.$bytes);
  let received = channel.receive(request.bytes);
  while (received === 0) received = channel.receive(request.bytes);
  if (typeof received === 'string') throw new ImgfuseError('io', `the mount was ${received} before it was ready`);
  const isWhole = request.accept(received);
  reply.begin(request.uniqueLow, request.uniqueHigh);
  try {
    const protocol = negotiate(decodeInit(request, isWhole), pageSize, timeout, holds);
    reply.init(protocol);
    channel.send(reply.bytes, reply.length);
    return protocol;
  } catch (error) {
    reply.error(ERRNO.EPROTO);
    channel.send(reply.bytes, reply.length);
    throw error;
  }
}

/** Older kernels send a shorter structure. @throws ImgfuseError io if the message is no INIT request */
function decodeInit(request: Request, isWhole: boolean): KernelOffer {
  const layout = abi.fuse_init_in;
  if (!isWhole || request.opcode !== abi.FUSE_INIT || request.bodyLength < abi.FUSE_COMPAT_INIT_IN_SIZE) {
    throw new ImgfuseError('io', 'the first request of the connection is not INIT: is it served already?');
  }
  const flags = request.u32(layout.flags);
  const hasFlags2 = (flags & abi.FUSE_INIT_EXT) !== 0 && request.bodyLength >= layout.flags2 + 4;
  return {
    major: request.u32(layout.major),
    minor: request.u32(layout.minor),
    maxReadahead: request.u32(layout.max_readahead),
    flags,
    flags2: hasFlags2 ? request.u32(layout.flags2) : 0,
  };
}
