// Starts the child process that serves a mount, talks to it, and takes everything away again. The process that touches
// a mountpoint must not be the one that serves it: it would wait for itself.
// Invariant: only paths below the test's own directory are unmounted and only processes started here are ended.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { createDisk, openDisk } from '../../src/disk/index.ts';
import { type MountEntry, parseMountInfo, readMountTable } from '../../src/fuse/mount-table.ts';
import { MNT_DETACH, UMOUNT_NOFOLLOW, umount2 } from '../../src/native/index.ts';
import { mbrSector } from './partition-bytes.ts';

const SERVER = fileURLToPath(new URL('./filesystem-server.mjs', import.meta.url));

/** What is to be mounted. */
export interface ServerSpec {
  /** directory of the test; everything is below it */
  readonly folder: string;
  readonly mountpoint: string;
  /** bytes of the disk; it starts as zeros */
  readonly size: number;
  readonly transport: 'kernel' | 'fuse-native';
  readonly readOnly?: boolean;
  readonly allowOther?: boolean;
  readonly defaultPermissions?: boolean;
  readonly flags?: readonly string[];
  readonly source?: string;
  readonly workers?: number;
  /** runs the server as this user and group, in a mount namespace of its own where /dev/fuse is open to everybody */
  readonly uid?: number;
}

/** A mount that is served. */
export interface MountServer {
  /** the file that shows the disk */
  readonly diskPath: string;
  readonly mountpoint: string;
  /** requests so far, by opcode name */
  counters(): Promise<Readonly<Record<string, number>>>;
  /** kernel transport: WRITEs that arrive from now on are not acted on until this is taken back */
  holdWrites(on: boolean): Promise<void>;
  /** WRITEs that have arrived and are held */
  heldWrites(): Promise<number>;
  /** asks the server to unmount. Rejects with `kind` in the message */
  unmount(options?: { lazy?: boolean }): Promise<void>;
  abort(): Promise<void>;
  kill(): void;
  /** the mount that the server's own mount namespace shows at the mountpoint */
  mountEntry(): MountEntry | undefined;
  /** runs a command where the server runs, as its user, and returns what it prints */
  run(command: string, ...parameters: string[]): string;
  /** the same, without waiting for it */
  spawn(command: string, ...parameters: string[]): ChildProcess;
  /** exit code or signal, once the server process is gone */
  readonly ended: Promise<number | NodeJS.Signals>;
  /** failures that the server reported */
  readonly errors: readonly string[];
  /** unmounts and ends whatever is left */
  cleanup(): Promise<void>;
}

export type StartServer = (spec: ServerSpec) => Promise<MountServer>;

interface Message {
  readonly type: 'ready' | 'failed' | 'done' | 'counters' | 'ended';
  readonly kind?: string;
  readonly message?: string;
  readonly rootIsFile?: boolean;
  readonly counters?: Record<string, number>;
  readonly held?: number;
  readonly errors?: readonly string[];
}

/** What is behind a mount: the plain filesystem over a file, or the real one over an image of a format, or over a partition of it. */
export type ServedFilesystem =
  | 'plain'
  | 'raw'
  | 'qed'
  | 'qcow2'
  | 'vdi'
  | 'vmdk'
  | 'vpc'
  | 'vhdx'
  | 'parallels'
  | 'partition of qcow2';

/** Where the partition begins, and what lies behind it. */
const BESIDE_PARTITION = 1024 * 1024;

/** Starts the plain filesystem. @throws with "kind: message" when it could not be mounted */
export const startPlainServer: StartServer = (spec) => startServer('plain', spec);

/** Starts the server of `filesystem`. @throws with "kind: message" when it could not be mounted */
export async function startServer(filesystem: ServedFilesystem, spec: ServerSpec): Promise<MountServer> {
  const backing = join(spec.folder, `backing-${fs.readdirSync(spec.folder).length}`);
  const isPartition = filesystem === 'partition of qcow2';
  if (filesystem === 'plain') {
    fs.writeFileSync(backing, '');
    fs.truncateSync(backing, spec.size);
  } else if (isPartition) {
    createPartition(backing, 'qcow2', spec.size);
  } else {
    createDisk(backing, filesystem, { size: spec.size, options: new Map() });
  }
  if (spec.uid !== undefined) fs.chownSync(backing, spec.uid, spec.uid);
  const { folder: _folder, size: _size, uid, ...rest } = spec;
  const options = {
    ...{ source: backing, readOnly: false, allowOther: false, defaultPermissions: true, flags: [], workers: 2 },
    ...rest,
    backing,
    filesystem,
    ...(isPartition ? { format: 'qcow2', part: { start: BESIDE_PARTITION, size: spec.size } } : { format: filesystem }),
  };
  const command = [process.execPath, SERVER, JSON.stringify(options)];
  if (uid !== undefined) command.unshift(...asUserWithDevice(spec.folder, uid));
  const child = spawn(command[0]!, command.slice(1), { cwd: '/', stdio: ['ignore', 'inherit', 'pipe', 'ipc'] });
  const server = new ChildServer(child, spec);
  const answer = await server.next();
  if (answer.type !== 'ready') {
    await server.end();
    throw new Error(`${answer.kind}: ${answer.message} ${server.errors.join('; ')}`);
  }
  const name = isPartition ? 'partitions/1.raw' : 'disk.raw';
  server.diskPath = answer.rootIsFile === true ? spec.mountpoint : join(spec.mountpoint, name);
  return server;
}

/** A disk with one partition of `size` bytes, and random bytes around it that nobody may see there. */
function createPartition(path: string, format: string, size: number): void {
  createDisk(path, format, { size: size + 2 * BESIDE_PARTITION, options: new Map() });
  const disk = openDisk(path, { readOnly: false });
  const around = new Uint8Array(BESIDE_PARTITION).fill(0xa5);
  disk.write(around, 0, around.length, guestOffset(0));
  disk.write(around, 0, around.length, guestOffset(BESIDE_PARTITION + size));
  const sectors = { start: BESIDE_PARTITION / 512, size: size / 512 };
  disk.write(mbrSector([{ type: 0x83, ...sectors }]), 0, 512, guestOffset(0));
  disk.close();
}

/**
 * The start of a command line that runs the rest as `uid`. fusermount3 opens /dev/fuse as its caller, and on some
 * machines only root may; a node of our own stands in for it, in a private mount namespace so that nobody else sees it.
 */
function asUserWithDevice(folder: string, uid: number): string[] {
  const node = join(folder, 'dev-fuse');
  execFileSync('mknod', ['-m', '666', node, 'c', '10', '229']);
  const script = 'mount --bind "$1" /dev/fuse && shift && exec "$@"';
  return ['unshare', '--mount', 'sh', '-c', script, 'sh', node, ...asUser(uid)];
}

function asUser(uid: number): string[] {
  return ['setpriv', `--reuid=${uid}`, `--regid=${uid}`, '--clear-groups', '--'];
}

class ChildServer implements MountServer {
  diskPath = '';
  readonly mountpoint: string;
  readonly ended: Promise<number | NodeJS.Signals>;
  readonly errors: string[] = [];
  private readonly child: ChildProcess;
  private readonly folder: string;
  private readonly uid: number;
  private readonly inbox: Message[] = [];
  private wake: () => void = () => {};
  private isGone = false;

  constructor(child: ChildProcess, spec: ServerSpec) {
    this.child = child;
    this.mountpoint = spec.mountpoint;
    this.folder = spec.folder;
    this.uid = spec.uid ?? 0;
    this.ended = once(child, 'exit').then(([code, signal]) => {
      this.isGone = true;
      this.wake();
      return code ?? signal;
    });
    child.stderr?.on('data', (data) => this.errors.push(String(data)));
    child.on('message', (message: Message) => {
      if (message.type === 'ended') this.errors.push(...(message.errors ?? []));
      else this.inbox.push(message);
      this.wake();
    });
  }

  async next(): Promise<Message> {
    while (this.inbox.length === 0) {
      if (this.isGone) return { type: 'failed', kind: 'io', message: 'the server process is gone' };
      await new Promise<void>((done) => {
        this.wake = done;
      });
    }
    return this.inbox.shift()!;
  }

  async counters(): Promise<Readonly<Record<string, number>>> {
    const answer = await this.ask({ type: 'counters' });
    return answer.counters ?? {};
  }

  async holdWrites(on: boolean): Promise<void> {
    await this.ask({ type: 'hold', on });
  }

  async heldWrites(): Promise<number> {
    return (await this.ask({ type: 'counters' })).held ?? 0;
  }

  async unmount(options: { lazy?: boolean } = {}): Promise<void> {
    await this.ask({ type: 'unmount', ...options });
  }

  async abort(): Promise<void> {
    await this.ask({ type: 'abort' });
  }

  kill(): void {
    this.child.kill('SIGKILL');
  }

  mountEntry(): MountEntry | undefined {
    const table = parseMountInfo(fs.readFileSync(`/proc/${this.child.pid}/mountinfo`));
    return table.findLast((entry) => entry.mountpoint === this.mountpoint);
  }

  run(command: string, ...parameters: string[]): string {
    return execFileSync('nsenter', [...this.inside(), command, ...parameters], { encoding: 'utf8', timeout: 20_000 });
  }

  spawn(command: string, ...parameters: string[]): ChildProcess {
    return spawn('nsenter', [...this.inside(), command, ...parameters], { stdio: ['ignore', 'pipe', 'inherit'] });
  }

  private inside(): string[] {
    return [`--mount=/proc/${this.child.pid}/ns/mnt`, '--wd=/', ...asUser(this.uid)];
  }

  async cleanup(): Promise<void> {
    unmountBelow(this.folder);
    await this.end();
  }

  /** Ends the process, by force where it does not end by itself; a namespace of its own goes with it. */
  async end(): Promise<void> {
    // a mount in another namespace cannot be unmounted from here
    if (this.uid !== 0) this.kill();
    const isSlow = await Promise.race([this.ended.then(() => false), sleep(3000).then(() => true)]);
    if (isSlow) this.kill();
    await this.ended;
  }

  private async ask(request: object): Promise<Message> {
    if (this.isGone) throw new Error('io: the server process is gone');
    this.child.send(request);
    const answer = await this.next();
    if (answer.type === 'failed') throw new Error(`${answer.kind}: ${answer.message}`);
    return answer;
  }
}

/** Detaches every mount below a directory of a test. */
export function unmountBelow(folder: string): void {
  for (const entry of readMountTable().reverse()) {
    if (entry.mountpoint.startsWith(`${folder}/`)) umount2(entry.mountpoint, UMOUNT_NOFOLLOW | MNT_DETACH);
  }
}

export function sleep(milliseconds: number): Promise<void> {
  return new Promise((done) => {
    setTimeout(done, milliseconds);
  });
}
