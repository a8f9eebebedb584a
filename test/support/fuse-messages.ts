// A naive encoder of FUSE messages for tests, independent of src/fuse/abi.ts: every field is written one after the
// other in the order of <linux/fuse.h>, 64-bit numbers as BigInt. Also a channel that plays the kernel's part.

import type { Channel, ConnectionEnd } from '../../src/fuse/device.ts';

type Field = readonly [kind: 'u16' | 'u32' | 'u64' | 'i64', value: number | bigint] | Uint8Array;

export const u16 = (value: number): Field => ['u16', value];
export const u32 = (value: number): Field => ['u32', value];
export const u64 = (value: number | bigint): Field => ['u64', value];
export const i64 = (value: number | bigint): Field => ['i64', value];
export const text = (value: string): Field => Buffer.from(`${value}\0`);

export function encode(...fields: readonly Field[]): Buffer {
  return Buffer.concat(
    fields.map((field) => {
      if (field instanceof Uint8Array) return Buffer.from(field);
      const [kind, value] = field;
      if (kind === 'u16') return bytes(2, (buffer) => buffer.writeUInt16LE(Number(value)));
      if (kind === 'u32') return bytes(4, (buffer) => buffer.writeUInt32LE(Number(value)));
      if (kind === 'i64') return bytes(8, (buffer) => buffer.writeBigInt64LE(BigInt(value)));
      return bytes(8, (buffer) => buffer.writeBigUInt64LE(BigInt(value)));
    }),
  );
}

function bytes(length: number, fill: (buffer: Buffer) => void): Buffer {
  const buffer = Buffer.alloc(length);
  fill(buffer);
  return buffer;
}

/** enum fuse_opcode of <linux/fuse.h>, typed anew: a wrong number in abi.ts answers the wrong request. */
export const OPCODES = {
  FUSE_LOOKUP: 1,
  FUSE_FORGET: 2,
  FUSE_GETATTR: 3,
  FUSE_SETATTR: 4,
  FUSE_READLINK: 5,
  FUSE_SYMLINK: 6,
  FUSE_MKNOD: 8,
  FUSE_MKDIR: 9,
  FUSE_UNLINK: 10,
  FUSE_RMDIR: 11,
  FUSE_RENAME: 12,
  FUSE_LINK: 13,
  FUSE_OPEN: 14,
  FUSE_READ: 15,
  FUSE_WRITE: 16,
  FUSE_STATFS: 17,
  FUSE_RELEASE: 18,
  FUSE_FSYNC: 20,
  FUSE_SETXATTR: 21,
  FUSE_GETXATTR: 22,
  FUSE_LISTXATTR: 23,
  FUSE_REMOVEXATTR: 24,
  FUSE_FLUSH: 25,
  FUSE_INIT: 26,
  FUSE_OPENDIR: 27,
  FUSE_READDIR: 28,
  FUSE_RELEASEDIR: 29,
  FUSE_FSYNCDIR: 30,
  FUSE_GETLK: 31,
  FUSE_SETLK: 32,
  FUSE_SETLKW: 33,
  FUSE_ACCESS: 34,
  FUSE_CREATE: 35,
  FUSE_INTERRUPT: 36,
  FUSE_BMAP: 37,
  FUSE_DESTROY: 38,
  FUSE_IOCTL: 39,
  FUSE_POLL: 40,
  FUSE_BATCH_FORGET: 42,
  FUSE_FALLOCATE: 43,
  FUSE_READDIRPLUS: 44,
  FUSE_RENAME2: 45,
  FUSE_LSEEK: 46,
  FUSE_COPY_FILE_RANGE: 47,
  FUSE_SYNCFS: 50,
  FUSE_TMPFILE: 51,
  FUSE_STATX: 52,
} as const;

/** A token above 2^53, so that a unique that went through a number would come back changed. */
export const UNIQUE = 0xfedcba9876543211n;

export interface Envelope {
  readonly nodeid?: number | bigint;
  readonly unique?: bigint;
  readonly uid?: number;
  readonly gid?: number;
  /** what the header claims, where that is not the truth */
  readonly claimedLength?: number;
}

export function requestMessage(opcode: number, fields: readonly Field[] = [], envelope: Envelope = {}): Buffer {
  const body = encode(...fields);
  const header = encode(
    u32(envelope.claimedLength ?? 40 + body.length),
    u32(opcode),
    u64(envelope.unique ?? UNIQUE),
    u64(envelope.nodeid ?? 2),
    u32(envelope.uid ?? 1000),
    u32(envelope.gid ?? 1001),
    u32(4242),
    u32(0),
  );
  return Buffer.concat([header, body]);
}

export interface ReplyMessage {
  readonly unique: bigint;
  /** positive; 0 = success */
  readonly errno: number;
  readonly body: Buffer;
}

export function parseReply(message: Buffer): ReplyMessage {
  if (message.readUInt32LE(0) !== message.length) throw new Error('the length in the header is not that of the reply');
  return { errno: Math.abs(message.readInt32LE(4)), unique: message.readBigUInt64LE(8), body: message.subarray(16) };
}

/** Hands out the messages one by one, then ends; keeps the replies. */
export class ScriptedChannel implements Channel {
  readonly replies: ReplyMessage[] = [];
  private readonly messages: Buffer[];
  private readonly end: ConnectionEnd;

  constructor(messages: readonly Buffer[], end: ConnectionEnd = 'unmounted') {
    this.messages = [...messages];
    this.end = end;
  }

  receive(target: Uint8Array): number | ConnectionEnd {
    const message = this.messages.shift();
    if (message === undefined) return this.end;
    target.set(message);
    return message.length;
  }

  send(source: Uint8Array, length: number): boolean {
    this.replies.push(parseReply(Buffer.from(source.slice(0, length))));
    return true;
  }
}
