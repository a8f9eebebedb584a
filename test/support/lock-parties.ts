// Programs that open an image, as the lock matrix pits them against each other: some hold it open for a while, all of them
// try to open it. What each does decides who must be refused.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, statSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { openDisk } from '../../src/disk/index.ts';
import { ImgfuseError } from '../../src/errors/index.ts';
import { CLI, isRunning } from '../mount/cli-harness.ts';

/** write, read (and keep writers out), or look in spite of a writer */
export type Access = 'write' | 'read' | 'look';

export interface Attempt {
  readonly opened: boolean;
  readonly message: string;
}

/** Somebody who tries to open the image, does something with it and lets go. */
export interface Visitor {
  readonly name: string;
  readonly access: Access;
  /** formats that it cannot do this with */
  readonly without?: readonly string[];
  /** of a raw image that it only reads it lets others write: a rule of QEMU's */
  readonly sharesRaw?: boolean;
  /** the command line opens as this process does, so that it need not meet everybody */
  readonly isCommand?: boolean;
  readonly visit: (image: string, format: string) => Attempt;
}

/** Somebody who has the image open until `release`. */
export interface Holder {
  readonly name: string;
  readonly access: Access;
  readonly without?: readonly string[];
  readonly hold: (image: string, format: string) => Promise<Held>;
}

export interface Held {
  /** absent: this process */
  readonly pid: number;
  readonly release: () => Promise<void>;
}

const TIMEOUT_MS = 20_000;

function command(name: string, ...parameters: readonly string[]): Attempt {
  const { status, stdout, stderr } = spawnSync(name, parameters, { encoding: 'utf8', timeout: TIMEOUT_MS, cwd: '/' });
  return { opened: status === 0, message: `${stdout}${stderr}` };
}

function cli(...parameters: readonly string[]): Attempt {
  return command(process.execPath, CLI, ...parameters);
}

/** Opens the image in this process, as a mount does, for the time of the call. */
function open(image: string, format: string, readOnly: boolean, share = false): Attempt {
  try {
    openDisk(image, { readOnly, format, locks: share ? 'share' : 'take' }).close();
    return { opened: true, message: '' };
  } catch (error) {
    if (!(error instanceof ImgfuseError) || error.kind !== 'busy') throw error;
    return { opened: false, message: error.message };
  }
}

const storageDaemon = (image: string, format: string, readOnly: boolean): readonly string[] => [
  ...['--blockdev', `driver=file,node-name=file,filename=${image},read-only=${readOnly ? 'on' : 'off'}`],
  ...['--blockdev', `driver=${format},node-name=disk,file=file,read-only=${readOnly ? 'on' : 'off'}`],
  ...['--nbd-server', `addr.type=unix,addr.path=${image}.nbd`],
  ...['--export', `type=nbd,id=disk,node-name=disk,writable=${readOnly ? 'off' : 'on'}`],
];

/** qemu-storage-daemon stays: it is taken to have opened the image when it still runs with its server in place. */
function visitAsStorageDaemon(image: string, format: string, readOnly: boolean): Attempt {
  const pidFile = `${image}.pid`;
  const started = command(
    'qemu-storage-daemon',
    ...storageDaemon(image, format, readOnly),
    ...['--daemonize', '--pidfile', pidFile],
  );
  if (started.opened) {
    const pid = Number(readFileSync(pidFile, 'utf8'));
    process.kill(pid, 'SIGKILL');
    for (let tries = 0; isRunning(pid) && tries < 500; tries++) spawnSync('sleep', ['0.01']);
  }
  return started;
}

/** Lets the visitor in, and waits for its locks to go: they do with the last of its threads, which may be later than its end. */
export function visit(visitor: Visitor, image: string, format: string): Attempt {
  const held = locksOn(image).length;
  const attempt = visitor.visit(image, format);
  for (let tries = 0; locksOn(image).length > held && tries < 500; tries++) spawnSync('sleep', ['0.01']);
  return attempt;
}

export const IMGFUSE_VISITORS: readonly Visitor[] = [
  { name: 'imgfuse rw', access: 'write', visit: (image, format) => open(image, format, false) },
  { name: 'imgfuse ro', access: 'read', visit: (image, format) => open(image, format, true) },
  { name: 'imgfuse ro,share', access: 'look', visit: (image, format) => open(image, format, true, true) },
  { name: 'imgfuse info', isCommand: true, access: 'read', visit: (image, format) => cli('info', '-f', format, image) },
  {
    name: 'imgfuse info -U',
    isCommand: true,
    access: 'look',
    visit: (image, format) => cli('info', '-U', '-f', format, image),
  },
  { name: 'imgfuse map', isCommand: true, access: 'read', visit: (image, format) => cli('map', '-f', format, image) },
  {
    name: 'imgfuse map -U',
    isCommand: true,
    access: 'look',
    visit: (image, format) => cli('map', '-U', '-f', format, image),
  },
  {
    name: 'imgfuse check',
    isCommand: true,
    access: 'read',
    without: ['raw'],
    visit: (image, format) => cli('check', '-f', format, image),
  },
  {
    name: 'imgfuse check -U',
    isCommand: true,
    access: 'look',
    without: ['raw'],
    visit: (image, format) => {
      const { opened, message } = cli('check', '-U', '-f', format, image);
      // beside its writer a Parallels image is marked, which is a finding
      return { opened: opened || message.includes('found on the image'), message };
    },
  },
  {
    name: 'imgfuse check -r all',
    isCommand: true,
    access: 'write',
    without: ['raw'],
    visit: (image, format) => cli('check', '-r', 'all', '-f', format, image),
  },
  {
    name: 'imgfuse resize',
    isCommand: true,
    access: 'write',
    without: ['qcow'],
    visit: (image, format) => cli('resize', '-f', format, image, '+1M'),
  },
];

export const QEMU_VISITORS: readonly Visitor[] = [
  {
    name: 'qemu-io write',
    access: 'write',
    visit: (image, format) => command('qemu-io', '-f', format, '-c', 'write -P 1 0 512', image),
  },
  {
    name: 'qemu-io -r',
    sharesRaw: true,
    access: 'read',
    visit: (image, format) => command('qemu-io', '-r', '-f', format, '-c', 'read 0 512', image),
  },
  {
    name: 'qemu-img info',
    sharesRaw: true,
    access: 'read',
    visit: (image, format) => command('qemu-img', 'info', '-f', format, image),
  },
  {
    name: 'qemu-img info -U',
    access: 'look',
    visit: (image, format) => command('qemu-img', 'info', '-U', '-f', format, image),
  },
  {
    name: 'qemu-img check',
    access: 'read',
    without: ['raw', 'qcow', 'vpc'],
    visit: (image, format) => command('qemu-img', 'check', '-f', format, image),
  },
  {
    name: 'qemu-img check -r all',
    access: 'write',
    without: ['raw', 'qcow', 'vdi', 'vmdk', 'vpc'],
    visit: (image, format) => command('qemu-img', 'check', '-r', 'all', '-f', format, image),
  },
  {
    name: 'qemu-img convert from it',
    access: 'read',
    visit: (image, format) => command('qemu-img', 'convert', '-f', format, '-O', 'raw', image, `${image}.copy`),
  },
  {
    name: 'qemu-img convert -U from it',
    access: 'look',
    visit: (image, format) => command('qemu-img', 'convert', '-U', '-f', format, '-O', 'raw', image, `${image}.copy`),
  },
  {
    name: 'qemu-img convert into it',
    access: 'write',
    visit: (image, format) => command('qemu-img', 'convert', '-n', '-f', 'raw', '-O', format, `${image}.source`, image),
  },
  {
    // QEMU resizes none of these
    name: 'qemu-img resize',
    access: 'write',
    without: ['qed', 'qcow', 'vdi', 'vmdk', 'vpc', 'vhdx', 'parallels'],
    visit: (image, format) => command('qemu-img', 'resize', '-f', format, image, '+1M'),
  },
  {
    name: 'qemu-storage-daemon, writable export',
    access: 'write',
    visit: (image, format) => visitAsStorageDaemon(image, format, false),
  },
  {
    name: 'qemu-storage-daemon, read-only export',

    access: 'read',
    visit: (image, format) => visitAsStorageDaemon(image, format, true),
  },
];

function holdHere(readOnly: boolean, share: boolean): Holder['hold'] {
  return (image, format) => {
    const disk = openDisk(image, { readOnly, format, locks: share ? 'share' : 'take' });
    return Promise.resolve({ pid: process.pid, release: () => Promise.resolve(disk.close()) });
  };
}

export const IMGFUSE_HOLDERS: readonly Holder[] = [
  { name: 'imgfuse rw', access: 'write', hold: holdHere(false, false) },
  { name: 'imgfuse ro', access: 'read', hold: holdHere(true, false) },
  { name: 'imgfuse ro,share', access: 'look', hold: holdHere(true, true) },
];

/** Starts a program that keeps the image open, and waits until its locks are there. */
async function holdWith(image: string, name: string, ...parameters: readonly string[]): Promise<Held> {
  const child = spawn(name, parameters, { stdio: ['pipe', 'pipe', 'pipe'], cwd: '/' });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += String(chunk)));
  const release = (): Promise<void> => end(child, image);
  for (let waited = 0; !isLocked(image); waited += 10) {
    if (waited > 10_000 || child.exitCode !== null) {
      await release();
      throw new Error(`${name} does not hold ${image}: ${output}`);
    }
    await delay(10);
  }
  return { pid: child.pid!, release };
}

async function end(child: ChildProcess, image: string): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGKILL');
  await gone;
  for (let waited = 0; isLocked(image) && waited < 5000; waited += 10) await delay(10);
}

/** Whether anybody has an OFD lock on byte 100, 201 or 203: QEMU sets them all at once. */
function isLocked(image: string): boolean {
  return locksOn(image).some((line) => line.includes(' 100 '));
}

/** The lines of /proc/locks about the file. */
function locksOn(image: string): string[] {
  const { ino } = statSync(image);
  const lines = readFileSync('/proc/locks', 'utf8').split('\n');
  return lines.filter((line) => line.includes('OFDLCK') && line.includes(`:${ino} `));
}

/** A qemu-img command that a throttle of one operation a second keeps busy for seconds. */
function throttled(image: string, format: string, what: string, ...rest: readonly string[]): Promise<Held> {
  const node = `driver=${format},file.driver=throttle,file.throttle-group=slow,file.file.driver=file,file.file.filename=${image}`;
  const group = 'throttle-group,id=slow,limits.iops-total=1';
  return holdWith(image, 'qemu-img', what, '--object', group, '--image-opts', node, ...rest);
}

export const QEMU_HOLDERS: readonly Holder[] = [
  {
    name: 'qemu-io',
    access: 'write',
    hold: (image, format) => holdWith(image, 'qemu-io', '-f', format, image),
  },
  {
    // what it only reads of a raw image it shares with everybody, and its locks do not say that it is there
    name: 'qemu-io -r',
    access: 'read',
    without: ['raw'],
    hold: (image, format) => holdWith(image, 'qemu-io', '-r', '-f', format, image),
  },
  {
    name: 'qemu-io -r -U',
    access: 'look',
    hold: (image, format) => holdWith(image, 'qemu-io', '-r', '-U', '-f', format, image),
  },
  {
    name: 'qemu-storage-daemon, writable export',
    access: 'write',
    hold: (image, format) => holdWith(image, 'qemu-storage-daemon', ...storageDaemon(image, format, false)),
  },
  {
    name: 'qemu-storage-daemon, read-only export',
    access: 'read',
    hold: (image, format) => holdWith(image, 'qemu-storage-daemon', ...storageDaemon(image, format, true)),
  },
  {
    name: 'qemu-img check',
    access: 'read',
    without: ['raw', 'qcow', 'vpc'],
    hold: (image, format) => throttled(image, format, 'check'),
  },
  {
    name: 'qemu-img convert from it',
    access: 'read',
    hold: (image, format) =>
      holdWith(image, 'qemu-img', 'convert', '-r', '16k', '-f', format, '-O', 'raw', image, `${image}.copy`),
  },
  {
    name: 'qemu-img convert into it',
    access: 'write',
    hold: (image, format) =>
      holdWith(image, 'qemu-img', 'convert', '-n', '-r', '16k', '-f', 'raw', '-O', format, `${image}.source`, image),
  },
  {
    name: 'qemu-img resize',
    access: 'write',
    without: ['qed', 'qcow', 'vdi', 'vmdk', 'vpc', 'vhdx', 'parallels', 'raw'],
    hold: (image, format) => throttled(image, format, 'resize', '+1M'),
  },
];

/** Whether the second of two may open what the first has open. */
export function mayShare(first: Access, second: Access): boolean {
  return first === 'look' || second === 'look' || (first === 'read' && second === 'read');
}
