// The Filesystem in the terms of fuse-native: paths instead of nodes, callbacks with negative errno instead of throws.
// Everything runs on the main thread, one request at a time.

import { ERRNO, errnoOf, ImgfuseError } from '../errors/index.ts';
import * as abi from './abi.ts';
import { countRequest } from './counters.ts';
import {
  type AttributeChange,
  type Attributes,
  type Filesystem,
  type LateFilesystem,
  NO_HANDLE,
  type Statfs,
} from './filesystem.ts';
import type { NativeOperations, NativeStat, NativeStatfs } from './fuse-native-package.ts';
import { operationName } from './operations.ts';
import type { ServerHooks } from './server.ts';

const S_ISUID_S_ISGID = 0o6000;
const UNCHANGED_ID = 0xffffffff;
const UINT32_MAX = 0xffffffff;

type Hooks = Pick<ServerHooks, 'counters' | 'onError' | 'shouldStop'> & { readonly late?: LateFilesystem };

/** Runs operations, counts them, and turns what they throw into a negative errno. */
class Runner {
  private readonly hooks: Hooks;
  private readonly words: Int32Array | undefined;

  constructor(hooks: Hooks) {
    this.hooks = hooks;
    this.words = hooks.counters === undefined ? undefined : new Int32Array(hooks.counters);
  }

  /** @param act answers by itself, unless it throws */
  run(opcode: number, answer: (result: number) => void, act: () => void): void {
    if (this.words !== undefined) countRequest(this.words, opcode);
    // its disk may be closed while libfuse still has the connection
    if (this.hooks.shouldStop?.() === true) return answer(-ERRNO.ENODEV);
    try {
      act();
    } catch (error) {
      this.fail(error, opcode, answer);
    }
  }

  /** Has the request answered by the LateFilesystem. */
  later(opcode: number, answer: (result: number) => void, act: (late: LateFilesystem) => void | Promise<void>): void {
    const { late } = this.hooks;
    if (late === undefined) throw new ImgfuseError('unsupported', 'nobody answers late requests here');
    void (async () => act(late))().catch((error) => this.fail(error, opcode, answer));
  }

  private fail(error: unknown, opcode: number, answer: (result: number) => void): void {
    const errno = errnoOf(error);
    if (errno === ERRNO.EIO || !(error instanceof ImgfuseError)) {
      this.hooks.onError?.(error, operationName(opcode));
    }
    answer(-errno);
  }
}

/** Nodes by path. What was found once stays right, unless its name may belong to another node soon. */
class Paths {
  private readonly filesystem: Filesystem;
  private readonly nodes = new Map<string, number>([['/', abi.FUSE_ROOT_ID]]);

  constructor(filesystem: Filesystem) {
    this.filesystem = filesystem;
  }

  /** @throws ImgfuseError missing, ENOTDIR */
  node(path: string): number {
    const known = this.nodes.get(path);
    if (known !== undefined) return known;
    const found = this.filesystem.lookup(this.node(parentOf(path)), path.slice(path.lastIndexOf('/') + 1));
    if (found.entrySeconds > 0) this.nodes.set(path, found.ino);
    return found.ino;
  }
}

function parentOf(path: string): string {
  const slash = path.lastIndexOf('/');
  return slash === 0 ? '/' : path.slice(0, slash);
}

export function nativeOperations(filesystem: Filesystem, hooks: Hooks): NativeOperations {
  const runner = new Runner(hooks);
  const paths = new Paths(filesystem);
  const change = (path: string, attributes: AttributeChange, answer: (result: number) => void, handle = NO_HANDLE) =>
    runner.run(abi.FUSE_SETATTR, answer, () => {
      filesystem.setattr(paths.node(path), attributes, handle);
      answer(0);
    });
  const changeNames = (opcode: number, path: string, answer: (result: number) => void) =>
    runner.run(opcode, answer, () => filesystem.changeNames(paths.node(parentOf(path))));
  const getattr: NativeOperations['getattr'] = (path, answer) =>
    runner.run(abi.FUSE_GETATTR, answer, () => answer(0, statOf(filesystem.getattr(paths.node(path)))));

  return {
    getattr,
    fgetattr: (path, _fd, answer) => getattr(path, answer),
    readdir: (path, answer) =>
      runner.run(abi.FUSE_READDIR, answer, () => {
        const entries = filesystem.readdir(paths.node(path));
        answer(0, ['.', '..', ...entries.map((entry) => entry.name)]);
      }),
    create: (path, _mode, answer) => changeNames(abi.FUSE_CREATE, path, answer),
    mknod: (path, _mode, _device, answer) => changeNames(abi.FUSE_MKNOD, path, answer),
    mkdir: (path, _mode, answer) => changeNames(abi.FUSE_MKDIR, path, answer),
    unlink: (path, answer) => changeNames(abi.FUSE_UNLINK, path, answer),
    rmdir: (path, answer) => changeNames(abi.FUSE_RMDIR, path, answer),
    rename: (from, _to, answer) => changeNames(abi.FUSE_RENAME, from, answer),
    link: (_from, to, answer) => changeNames(abi.FUSE_LINK, to, answer),
    symlink: (_target, path, answer) => changeNames(abi.FUSE_SYMLINK, path, answer),
    truncate: (path, size, answer) => change(path, { size }, answer),
    ftruncate: (path, fd, size, answer) => change(path, { size }, answer, fd),
    chmod: (path, mode, answer) => change(path, { mode: mode & ~S_ISUID_S_ISGID }, answer),
    chown: (path, uid, gid, answer) =>
      change(path, { ...(isId(uid) ? { uid } : {}), ...(isId(gid) ? { gid } : {}) }, answer),
    // the compiled part passes atime twice, so mtime is not known
    utimens: (path, atimeMs, mtimeMs, answer) => change(path, { atimeMs, mtimeMs }, answer),
    ...handleOperations(filesystem, runner, paths),
    statfs: (path, answer) =>
      runner.run(abi.FUSE_STATFS, answer, () => answer(0, statfsOf(filesystem.statfs(paths.node(path))))),
    getxattr: (path, name, _position, answer) =>
      runner.run(abi.FUSE_GETXATTR, answer, () => answer(0, Buffer.from(filesystem.getxattr(paths.node(path), name)))),
    listxattr: (path, answer) =>
      runner.run(abi.FUSE_LISTXATTR, answer, () => answer(0, filesystem.listxattr(paths.node(path)))),
  };
}

type HandleOperation = 'open' | 'release' | 'read' | 'write' | 'flush' | 'fsync' | 'fsyncdir';

function handleOperations(
  filesystem: Filesystem,
  runner: Runner,
  paths: Paths,
): Pick<NativeOperations, HandleOperation> {
  return {
    open: (path, flags, answer) =>
      runner.run(abi.FUSE_OPEN, answer, () => {
        const node = paths.node(path);
        const opened = filesystem.open(node, flags);
        if (opened !== 'later') return answer(0, opened.handle);
        runner.later(abi.FUSE_OPEN, answer, async (late) => answer(0, await late.open(node)));
      }),
    release: (path, fd, answer) =>
      runner.run(abi.FUSE_RELEASE, answer, () => {
        if (filesystem.release(paths.node(path), fd) !== 'later') return answer(0);
        runner.later(abi.FUSE_RELEASE, answer, (late) => {
          late.release(fd);
          answer(0);
        });
      }),
    read: (path, fd, target, length, offset, answer) =>
      runner.run(abi.FUSE_READ, answer, () => {
        const count = filesystem.read(paths.node(path), fd, target, 0, length, safeOffset(offset));
        if (count !== 'later') return answer(count);
        runner.later(abi.FUSE_READ, answer, (late) => {
          const bytes = late.read(fd, offset, length);
          target.set(bytes);
          answer(bytes.length);
        });
      }),
    write: (path, fd, source, length, offset, answer) =>
      runner.run(abi.FUSE_WRITE, answer, () =>
        answer(filesystem.write(paths.node(path), fd, source, 0, length, safeOffset(offset + length) - length)),
      ),
    flush: (path, fd, answer) =>
      runner.run(abi.FUSE_FLUSH, answer, () => {
        filesystem.flush(paths.node(path), fd);
        answer(0);
      }),
    fsync: (path, _dataOnly, fd, answer) =>
      runner.run(abi.FUSE_FSYNC, answer, () => {
        filesystem.fsync(paths.node(path), fd);
        answer(0);
      }),
    fsyncdir: (_path, _dataOnly, _fd, answer) => runner.run(abi.FUSE_FSYNCDIR, answer, () => answer(0)),
  };
}

function isId(id: number): boolean {
  return id >>> 0 !== UNCHANGED_ID;
}

function safeOffset(offset: number): number {
  if (Number.isSafeInteger(offset)) return offset;
  throw new ImgfuseError('limit', 'offsets and sizes above 8 PiB are not supported');
}

function statOf(attributes: Attributes): NativeStat {
  return {
    mode: attributes.mode,
    uid: attributes.uid,
    gid: attributes.gid,
    size: attributes.size,
    nlink: attributes.nlink,
    ino: attributes.ino,
    blksize: attributes.blockSize,
    blocks: Math.ceil(attributes.allocatedBytes / 512),
    atime: Math.floor(attributes.atimeMs),
    mtime: Math.floor(attributes.mtimeMs),
    ctime: Math.floor(attributes.ctimeMs),
  };
}

function statfsOf(statfs: Statfs): NativeStatfs {
  const clamp = (count: number) => Math.min(count, UINT32_MAX);
  return {
    bsize: statfs.blockSize,
    frsize: statfs.blockSize,
    blocks: clamp(statfs.blocks),
    bfree: clamp(statfs.blocksFree),
    bavail: clamp(statfs.blocksAvailable),
    files: clamp(statfs.files),
    ffree: clamp(statfs.filesFree),
    favail: clamp(statfs.filesFree),
    namemax: statfs.nameMax,
  };
}
