// The server of one worker: read a request, act on it through the table of operations, write the reply, again.
// Invariant: every request that expects a reply gets exactly one, from here, from answerLate(), from answerAfterDrop() or from who
// has taken it over (`hold`), whatever the filesystem throws; no buffer is allocated after the constructor.

import { ERRNO, errnoOf, ImgfuseError, isOutOfSpace } from '../errors/index.ts';
import { countRequest } from './counters.ts';
import { type Channel, type ConnectionEnd, Device } from './device.ts';
import type { Filesystem } from './filesystem.ts';
import type { ServedPages } from './kernel-pages.ts';
import { OPERATIONS, operationName } from './operations.ts';
import type { Protocol } from './protocol.ts';
import { Reply } from './reply.ts';
import { RECEIVE_HEADROOM, Request } from './request.ts';

export interface ServerHooks {
  /** Looked at after each request; true ends `serve`. */
  readonly shouldStop?: () => boolean;
  /** A request was answered EIO or failed in an unexpected way. @param operation the opcode's name: READ, WRITE, ... */
  readonly onError?: (error: unknown, operation: string) => void;
  /** Has a request answered by the LateFilesystem of the main thread: see answerLate(). @param message of this call only */
  readonly later?: (message: Uint8Array) => void;
  /**
   * The host has no space for a request that may be repeated. true: it gets no reply here, because the hook has kept a copy of
   * the message, which is valid during the call, and sees to it that `repeat` or `refuse` answers it.
   */
  readonly hold?: (error: ImgfuseError, message: Uint8Array) => boolean;
  /** The same that the filesystem has. */
  readonly pages?: ServedPages;
  /** Requests by opcode, from createCounters(); all workers may share it. */
  readonly counters?: SharedArrayBuffer;
}

/** Why `serve` returned. */
export type ServeEnd = ConnectionEnd | 'stopped';

export class FuseServer {
  private readonly channel: Channel;
  private readonly protocol: Protocol;
  private readonly filesystem: Filesystem;
  private readonly hooks: ServerHooks;
  private readonly request: Request;
  private readonly reply: Reply;
  private readonly counterWords: Int32Array | undefined;

  /** @param device descriptor from KernelSession.cloneDevice() (or, in tests, a channel) */
  constructor(device: number | Channel, protocol: Protocol, filesystem: Filesystem, hooks: ServerHooks = {}) {
    this.channel = typeof device === 'number' ? new Device(device) : device;
    this.protocol = protocol;
    this.filesystem = filesystem;
    this.hooks = hooks;
    this.counterWords = hooks.counters === undefined ? undefined : new Int32Array(hooks.counters);
    this.request = new Request(protocol.maxWrite + RECEIVE_HEADROOM);
    this.reply = new Reply(protocol.maxWrite + RECEIVE_HEADROOM);
  }

  /**
   * Serves until the mount goes away, the connection is aborted, or `shouldStop` says so.
   * @throws ImgfuseError io when /dev/fuse itself fails
   */
  serve(): ServeEnd {
    const { channel, request, hooks } = this;
    for (;;) {
      const received = channel.receive(request.bytes);
      if (typeof received === 'string') return received;
      if (received > 0) {
        this.handle(received);
        this.answer(channel);
      }
      if (hooks.shouldStop?.() === true) return 'stopped';
    }
  }

  /**
   * Acts once more on a message that was held, from its start.
   * @param channel takes the reply: the one that the message was received from, no other belongs to the request
   * @returns false if it is held again, so that nothing has been answered
   */
  repeat(message: Uint8Array, channel: Channel): boolean {
    this.handle(this.request.load(message));
    return this.answer(channel);
  }

  /** Answers a message that was held with an error. @param errno positive */
  refuse(message: Uint8Array, channel: Channel, errno: number): void {
    this.request.accept(this.request.load(message));
    this.reply.begin(this.request.uniqueLow, this.request.uniqueHigh);
    this.reply.error(errno);
    this.send(channel);
  }

  /** Acts on the message of `received` bytes in the request buffer and leaves the answer in the reply buffer. */
  private handle(received: number): void {
    const { request, reply } = this;
    const isWhole = request.accept(received);
    reply.begin(request.uniqueLow, request.uniqueHigh);
    const opcode = request.opcode;
    if (this.counterWords !== undefined) countRequest(this.counterWords, opcode);
    const operation = OPERATIONS[opcode];
    if (!request.hasUnique) return this.hooks.onError?.(malformed('cut', received), 'a request');
    if (operation === undefined) return reply.error(isWhole ? ERRNO.ENOSYS : ERRNO.EIO);
    try {
      const extra = request.bodyLength - operation.bodySize;
      if (!isWhole || extra < 0 || (extra > 0 && !operation.hasTail)) {
        throw malformed(operation.name, received);
      }
      operation.act(this.filesystem, request, reply, this.protocol);
      if (reply.isLater) this.passOn();
    } catch (error) {
      if (operation.repeatable && this.isHeld(error)) return;
      this.fail(error, operation.name);
    }
    if (!operation.replies) reply.length = 0;
  }

  private passOn(): void {
    const { later } = this.hooks;
    if (later === undefined) throw new ImgfuseError('unsupported', 'nobody answers late requests here');
    later(this.request.bytes.subarray(0, this.request.length));
  }

  private isHeld(error: unknown): boolean {
    const { hooks, request } = this;
    if (hooks.hold === undefined || !isOutOfSpace(error)) return false;
    return hooks.hold(error, request.bytes.subarray(0, request.length));
  }

  private fail(error: unknown, name: string): void {
    const errno = errnoOf(error);
    this.reply.error(errno);
    if (errno === ERRNO.EIO || !(error instanceof ImgfuseError)) this.hooks.onError?.(error, name);
  }

  /** @returns false if there is nothing to answer now */
  private answer(channel: Channel): boolean {
    const { reply, hooks } = this;
    const isDue = reply.length > 0;
    const isLater = hooks.pages?.settle(isDue ? reply.bytes.subarray(0, reply.length) : null, channel) ?? false;
    if (isDue && !isLater) this.send(channel);
    return isDue;
  }

  /** A reply that the kernel does not take is replaced by EIO, so that its request does not wait for ever. */
  private send(channel: Channel): void {
    const { reply } = this;
    try {
      channel.send(reply.bytes, reply.length);
    } catch (error) {
      this.hooks.onError?.(error, operationName(this.request.opcode));
      reply.error(ERRNO.EIO);
      channel.send(reply.bytes, reply.length);
    }
  }
}

function malformed(name: string, received: number): ImgfuseError {
  return new ImgfuseError('io', `a ${name} request of ${received} bytes is malformed`);
}
