// Runs the built command line in a directory and a runtime directory of its own, and takes down what a test leaves behind:
// its mounts, its loop devices and the processes of its mounts, and nothing else.

import { type ChildProcess, type SpawnSyncOptions, spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

/** The built program; another build is named by IMGFUSE_CLI. */
export const CLI = process.env['IMGFUSE_CLI'] ?? fileURLToPath(new URL('../../dist/cli.js', import.meta.url));
export const NOBODY = 65534;

export interface Result {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface MountRecord {
  /** nothing is mounted yet */
  readonly opening: boolean;
  readonly pid: number;
  readonly mountpoint: string;
  readonly log: string | null;
}

/** Those that are not taken down yet. */
const benches = new Set<Bench>();

// Ctrl-C in the middle of a long run ends this process without the hooks of its tests
process.once('SIGINT', () => process.exit(130)).once('SIGTERM', () => process.exit(143));
process.once('exit', () => {
  for (const bench of benches) bench.cleanUp();
});

/** One test's directory, with what it mounts. */
export class Bench {
  readonly directory: string;
  readonly runtime: string;
  readonly #children: ChildProcess[] = [];
  readonly #pids = new Set<number>();

  constructor() {
    benches.add(this);
    this.directory = mkdtempSync(join(realpathSync(tmpdir()), 'imgfuse-cli-'));
    this.runtime = join(this.directory, 'run');
    mkdirSync(this.runtime, { mode: 0o700 });
    // an unprivileged user passes through; what belongs to root stays closed
    chmodSync(this.directory, 0o755);
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  /** A new directory below that of the test. */
  makeDirectory(name: string): string {
    mkdirSync(this.path(name));
    return this.path(name);
  }

  environment(): NodeJS.ProcessEnv {
    return { ...process.env, IMGFUSE_RUNTIME_DIR: this.runtime, NO_COLOR: '1' };
  }

  /** Runs imgfuse and waits for it. */
  imgfuse(...parameters: readonly string[]): Result {
    return this.run(process.execPath, [CLI, ...parameters]);
  }

  /** The same with more in its environment. */
  runCli(parameters: readonly string[], environment: NodeJS.ProcessEnv): Result {
    return this.run(process.execPath, [CLI, ...parameters], { env: { ...this.environment(), ...environment } });
  }

  /** @throws unless a closed image has no errors and no leaks: qemu-img says so, or imgfuse if qemu-img cannot check such an image */
  assertSound(image: string, format: string): void {
    if (format === 'raw') return;
    const check = ['check', '-q', '-f', format, image];
    const theirs = this.run('qemu-img', check);
    // it has no check of VHD, and opens no VDI or VHDX that has a parent
    const isChild = format === 'vhdx' && /Operation not supported/.test(theirs.stderr);
    const isUnknown = isChild || /does not support checks|non-NULL link UUID/.test(theirs.stderr);
    const { code, stdout, stderr } = isUnknown ? this.imgfuse(...check) : theirs;
    if (code !== 0) throw new Error(`the check of ${image} ends with ${code}: ${stdout}${stderr}`);
  }

  /** The program made of its single modules, of which a Node option can change one; the built program has none. */
  modulesCli(): string {
    const path = this.path('imgfuse.mjs');
    const module = new URL('cli/main.js', `file://${CLI}`).href;
    const source = `import { main } from '${module}';\nprocess.exit(await main(process.argv.slice(2), process.argv[1]));\n`;
    writeFileSync(path, source);
    return path;
  }

  run(command: string, parameters: readonly string[], options: SpawnSyncOptions = {}): Result {
    const child = spawnSync(command, parameters, {
      cwd: this.directory,
      env: this.environment(),
      timeout: 60_000,
      ...options,
      encoding: 'utf8',
    });
    this.#notePids();
    if (child.error !== undefined) throw child.error;
    return { code: child.status, stdout: child.stdout, stderr: child.stderr };
  }

  /**
   * Runs a shell script in a mount namespace of its own, where no other imgfuse mount of the machine is seen: from there alone,
   * and from no table of mounts, they go.
   */
  runAlone(script: string): Result {
    const setUp = 'set -eu\numount --all --types fuse.imgfuse --lazy --internal-only --no-mtab';
    return this.run('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', `${setUp}\n${script}`]);
  }

  /** Runs a shell script as nobody, with a /dev/fuse that everybody may open, as udev makes it. */
  runAsNobody(script: string): Result {
    return this.runInNamespaceWithFuse(
      `exec setpriv --reuid=${NOBODY} --regid=${NOBODY} --clear-groups sh -euc '${script}'`,
    );
  }

  /** Runs a shell script as root in a mount namespace of its own where everybody may open /dev/fuse. */
  runInNamespaceWithFuse(script: string): Result {
    const node = this.path('fuse-node');
    const setUp = `{ [ -e ${node} ] || mknod ${node} c 10 229; } && chmod 666 ${node} && mount --bind ${node} /dev/fuse`;
    return this.run('unshare', ['--mount', '--propagation', 'private', 'sh', '-euc', `${setUp}\n${script}`]);
  }

  /** Starts imgfuse and does not wait; its standard error is collected. */
  start(...parameters: readonly string[]): ChildProcess & { output: () => string } {
    const child = spawn(process.execPath, [CLI, ...parameters], {
      cwd: this.directory,
      env: this.environment(),
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let text = '';
    child.stdout.on('data', (chunk) => {
      text += chunk;
    });
    child.stderr.on('data', (chunk) => {
      text += chunk;
    });
    this.#children.push(child);
    return Object.assign(child, { output: () => text });
  }

  /** The records of mounts that this test has made, and that answer. */
  records(): MountRecord[] {
    return this.allRecords().filter(({ opening }) => !opening);
  }

  /** What mounts have left in the runtime directory, beside the marks of images that were closed clean. */
  runtimeFiles(): string[] {
    return readdirSync(this.runtime)
      .filter((name) => name !== 'closed')
      .sort();
  }

  /** The marks of images that were closed clean. */
  closedMarks(): string[] {
    const directory = join(this.runtime, 'closed');
    return existsSync(directory) ? readdirSync(directory) : [];
  }

  /** Those whose image is still being opened included. */
  allRecords(): MountRecord[] {
    return readdirSync(this.runtime)
      .filter((name) => name.endsWith('.json'))
      .map((name) => JSON.parse(readFileSync(join(this.runtime, name), 'utf8')) as MountRecord);
  }

  /** The process of the one mount there is. */
  daemonPid(): number {
    this.#notePids();
    const [record] = this.records();
    if (record === undefined) throw new Error('there is no record of a mount');
    return record.pid;
  }

  #notePids(): void {
    for (const { pid } of this.allRecords()) this.#pids.add(pid);
  }

  /** Takes everything down, in the order that lets go. */
  cleanUp(): void {
    this.#notePids();
    for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n').reverse()) {
      const mountpoint = line.split(' ')[4];
      if (mountpoint?.startsWith(`${this.directory}/`) && !line.includes(' - fuse.imgfuse ')) umount(mountpoint);
    }
    for (const device of loopsUnder(this.directory)) spawnSync('losetup', ['-d', device]);
    for (let tries = 0; tries < 10; tries++) {
      const mounts = mountsUnder(this.directory);
      if (mounts.length === 0) break;
      for (const mountpoint of mounts) umount(mountpoint, ...(tries > 5 ? ['-l'] : []));
      sleep(50);
    }
    for (const child of this.#children) child.kill('SIGKILL');
    for (const pid of this.#pids) {
      // by its name, too: a test may write records of processes that are none of its own
      for (let tries = 0; tries < 100 && isRunning(pid); tries++) sleep(20);
      if (isRunning(pid) && isMountProcess(pid, this.directory)) process.kill(pid, 'SIGKILL');
    }
    rmSync(this.directory, { recursive: true, force: true });
    benches.delete(this);
  }
}

function sleep(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

function umount(mountpoint: string, ...flags: readonly string[]): void {
  spawnSync('umount', ['-i', ...flags, mountpoint], { stdio: 'ignore' });
}

/** Mountpoints below a directory, latest first. */
export function mountsUnder(directory: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((mountpoint) => mountpoint.startsWith(`${directory}/`))
    .reverse();
}

function loopsUnder(directory: string): string[] {
  return readdirSync('/sys/block')
    .filter((name) => name.startsWith('loop'))
    .filter((name) => backingFile(name).startsWith(`${directory}/`))
    .map((name) => `/dev/${name}`);
}

function backingFile(loop: string): string {
  try {
    return readFileSync(`/sys/block/${loop}/loop/backing_file`, 'utf8');
  } catch {
    return '';
  }
}

function isMountProcess(pid: number, directory: string): boolean {
  const line = readFileSync(`/proc/${pid}/cmdline`, 'latin1');
  return line.startsWith('imgfuse mount ') && line.includes(directory);
}

/** Whether a process runs (a zombie does not). */
export function isRunning(pid: number): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

/** @returns whether the process still runs after `milliseconds` */
export async function outlives(pid: number, milliseconds: number): Promise<boolean> {
  const end = performance.now() + milliseconds;
  while (performance.now() < end) {
    if (!isRunning(pid)) return false;
    await delay(20);
  }
  return isRunning(pid);
}

/** Waits until `holds` is true. @throws Error after a minute, which a machine full of other work may need for a mount */
export async function until(holds: () => boolean, what: string): Promise<void> {
  const end = performance.now() + 60_000;
  while (!holds()) {
    if (performance.now() > end) throw new Error(`timeout: ${what}`);
    await delay(20);
  }
}

/** Waits for the end of a child. @returns its exit code, or the signal that ended it */
export function exitOf(child: ChildProcess): Promise<number | string> {
  if (child.exitCode !== null) return Promise.resolve(child.exitCode);
  return new Promise((resolve) => child.once('exit', (code, signal) => resolve(code ?? signal ?? 'unknown')));
}

/** Non-empty lines. */
export function lines(text: string): string[] {
  return text.split('\n').filter((line) => line !== '');
}
