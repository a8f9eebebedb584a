// Unix sockets, as far as mounting and service managers need them: a pair to receive one descriptor through
// (SCM_RIGHTS), and one datagram to a path or an abstract name (sd_notify).

import { ERRNO, ImgfuseError } from '../errors/index.ts';
import { checked, lastErrno, lazyFunction } from './library.ts';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;

// struct cmsghdr (64-bit): 0 cmsg_len u64 | 8 cmsg_level i32 | 12 cmsg_type i32 | 16 the descriptors, i32 each
const CMSG_DATA = 16;
const SUN_PATH_MAX = 108;

const socketpairCall = lazyFunction('socketpair', 'int socketpair(int domain, int type, int protocol, void *pair)');
const socketCall = lazyFunction('socket', 'int socket(int domain, int type, int protocol)');
const closeCall = lazyFunction('close', 'int close(int fd)');
const sendtoCall = lazyFunction(
  'sendto',
  'int64 sendto(int fd, const void *data, size_t length, int flags, const void *address, uint32 addressLength)',
);
const recvmsgCall = lazyFunction('recvmsg', (koffi, library) => {
  const iovec = koffi.struct({ iov_base: 'void *', iov_len: 'size_t' });
  const msghdr = koffi.struct({
    msg_name: 'void *',
    msg_namelen: 'uint32',
    msg_iov: koffi.pointer(iovec),
    msg_iovlen: 'size_t',
    msg_control: 'void *',
    msg_controllen: 'size_t',
    msg_flags: 'int',
  });
  return library.func('recvmsg', 'int64', ['int', koffi.inout(koffi.pointer(msghdr)), 'int']);
});

/** Two connected stream sockets, both closed on exec. */
export function socketPair(): readonly [number, number] {
  const pair = new Int32Array(2);
  checked(socketpairCall(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 'socketpair');
  return [pair[0]!, pair[1]!];
}

/**
 * Waits for a message with one descriptor in it; the descriptor is closed on exec.
 * @throws ImgfuseError io when the other side closes without sending one
 */
export function receiveDescriptor(socket: number): number {
  const data = new Uint8Array(16);
  const control = new Uint8Array(64);
  const header = {
    msg_name: null,
    msg_namelen: 0,
    msg_iov: { iov_base: data, iov_len: data.length },
    msg_iovlen: 1,
    msg_control: control,
    msg_controllen: control.length,
    msg_flags: 0,
  };
  let received = recvmsgCall(socket, { ...header }, MSG_CMSG_CLOEXEC);
  while (received < 0 && lastErrno() === ERRNO.EINTR) received = recvmsgCall(socket, { ...header }, MSG_CMSG_CLOEXEC);
  checked(received, 'recvmsg');
  const view = new DataView(control.buffer);
  const isDescriptor =
    view.getUint32(0, true) >= CMSG_DATA + 4 &&
    view.getInt32(8, true) === SOL_SOCKET &&
    view.getInt32(12, true) === SCM_RIGHTS;
  if (!isDescriptor) throw new ImgfuseError('io', 'the message carries no descriptor', { operation: 'recvmsg' });
  return view.getInt32(CMSG_DATA, true);
}

/**
 * Sends one datagram to a Unix socket.
 * @param path absolute path, or "@name" for the abstract socket of that name
 * @throws ImgfuseError usage (path too long), missing, permission, io
 */
export function sendDatagram(path: string, payload: Uint8Array): void {
  const name = Buffer.from(path);
  if (name.length === 0 || name.length >= SUN_PATH_MAX) {
    throw new ImgfuseError('usage', `the socket path ${path} must have 1 to ${SUN_PATH_MAX - 1} bytes`, { path });
  }
  // struct sockaddr_un: 0 sun_family u16 | 2 sun_path; a path ends with NUL, an abstract name starts with one
  const address = new Uint8Array(2 + SUN_PATH_MAX);
  new DataView(address.buffer).setUint16(0, AF_UNIX, true);
  address.set(name, 2);
  const isAbstract = path.startsWith('@');
  if (isAbstract) address[2] = 0;
  const addressLength = 2 + name.length + (isAbstract ? 0 : 1);

  const socket = checked(socketCall(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), 'socket');
  try {
    checked(sendtoCall(socket, payload, payload.length, MSG_NOSIGNAL, address, addressLength), 'sendto', path);
  } finally {
    closeCall(socket);
  }
}
