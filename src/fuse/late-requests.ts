// Requests that their worker has passed on, because the answer takes time to be made: an OPEN, READ or RELEASE of a file whose content is
// made when it is opened. The main thread answers them, on the descriptor that they were read from.
// Invariant: each gets exactly one reply, whatever the filesystem throws; the kernel may have given up on it meanwhile.

import { errnoOf, ImgfuseError } from '../errors/index.ts';
import * as abi from './abi.ts';
import { type Channel, Device } from './device.ts';
import type { LateFilesystem } from './filesystem.ts';
import { Reply } from './reply.ts';
import { Request } from './request.ts';

/**
 * @param message as the worker has received it @param device descriptor that it was read from (or, in tests, a channel)
 * @returns the error that was answered; null: none
 */
export async function answerLate(
  message: Uint8Array,
  device: number | Channel,
  filesystem: LateFilesystem,
): Promise<unknown> {
  const request = new Request(message.length);
  request.bytes.set(message);
  request.accept(message.length);
  const isRead = request.opcode === abi.FUSE_READ;
  const reply = new Reply(Math.max(abi.fuse_open_out.$bytes, isRead ? request.u32(abi.fuse_read_in.size) : 0));
  reply.begin(request.uniqueLow, request.uniqueHigh);
  let failure: unknown = null;
  try {
    await act(request, reply, filesystem);
  } catch (error) {
    failure = error;
    reply.error(errnoOf(error));
  }
  (typeof device === 'number' ? new Device(device) : device).send(reply.bytes, reply.length);
  return failure;
}

async function act(request: Request, reply: Reply, filesystem: LateFilesystem): Promise<void> {
  switch (request.opcode) {
    case abi.FUSE_OPEN:
      // its size is not known before it is opened, so the kernel must ask for every byte
      return reply.open(await filesystem.open(request.nodeid), abi.FOPEN_DIRECT_IO);
    case abi.FUSE_READ: {
      const { fh, offset, size } = abi.fuse_read_in;
      return reply.copy(filesystem.read(request.handle(fh), request.u64(offset), request.u32(size)));
    }
    case abi.FUSE_RELEASE:
      filesystem.release(request.handle(abi.fuse_release_in.fh));
      return reply.empty();
    default:
      throw new ImgfuseError('unsupported', `opcode ${request.opcode} is never answered late`);
  }
}
