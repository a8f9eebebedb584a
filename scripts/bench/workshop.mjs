// Where the rows get their images, mounts and processes from. Everything is made in one temporary directory; cleanUp() ends
// what still runs and removes it, also when the run is interrupted.

import { execFileSync, spawn, spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const CLI = new URL('../../dist/cli.js', import.meta.url).pathname;

export class Workshop {
  directory = mkdtempSync(join(tmpdir(), 'imgfuse-bench-'));
  environment = { ...process.env, IMGFUSE_RUNTIME_DIR: join(this.directory, 'run') };
  hasQemu = isInstalled('qemu-storage-daemon');
  hasCompiler = isInstalled('gcc');
  /** this build, and the other one if there is one */
  builds;
  #stops = new Set();

  /** @param other dist/cli.js of another build, or undefined @param formats those that are asked for; none: all */
  constructor({ other, formats = [] }) {
    this.formats = formats;
    this.builds = [
      { name: 'imgfuse', cli: CLI },
      ...(other === undefined ? [] : [{ name: 'other build', cli: other }]),
    ];
  }

  /** Whether images of a format are asked for. */
  wants(format) {
    return this.formats.length === 0 || this.formats.includes(format);
  }

  path(name) {
    return join(this.directory, name);
  }

  /** Runs a command of this build. @returns what it prints */
  imgfuse(...args) {
    return this.command(CLI, ...args);
  }

  /** Runs a command of a build. @returns what it prints */
  command(cli, ...args) {
    return this.#run([process.execPath, cli, ...args], this.environment);
  }

  #run([program, ...args], env) {
    return execFileSync(program, args, {
      encoding: 'utf8',
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
      maxBuffer: 2 ** 30,
    });
  }

  /**
   * Runs a program to its end.
   * @returns {{ seconds: number, cpuSeconds: number, rssMiB: number }} CPU time and memory as GNU time says, NaN without it
   */
  timed(program, ...args) {
    const figures = this.path('time');
    const hasTime = existsSync('/usr/bin/time');
    const command = hasTime ? ['/usr/bin/time', '-q', '-o', figures, '-f', '%U %S %M', program] : [program];
    const begin = performance.now();
    const { status, stderr } = spawnSync(command[0], [...command.slice(1), ...args], {
      env: this.environment,
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const seconds = (performance.now() - begin) / 1000;
    if (status !== 0) throw new Error(`${program} ${args[0]} ended with ${status}: ${stderr}`);
    const [user, system, rss] = hasTime ? readFileSync(figures, 'utf8').trim().split(' ').map(Number) : [];
    return { seconds, cpuSeconds: (user ?? NaN) + (system ?? NaN), rssMiB: (rss ?? NaN) / 1024 };
  }

  /**
   * Mounts with a build. With `sharing`, several mounts and QEMU may have the same file for writing, as long as nothing is
   * allocated: no locks, and a network namespace for each, because a claim on the file is a socket with a name.
   * @param args options of `mount` @returns the disk's file, how to run another command there, and how to unmount it
   */
  mountImgfuse(cli, image, at, args = [], { sharing = false } = {}) {
    mkdirSync(at, { recursive: true });
    // a runtime directory for each mountpoint: a name of the image then means one mount
    const environment = { ...this.environment, IMGFUSE_RUNTIME_DIR: `${at}.run` };
    const command = (...words) => this.#run([process.execPath, cli, ...words], environment);
    if (sharing)
      this.#run(['unshare', '-n', process.execPath, cli, 'mount', image, at, '--no-lock', ...args], environment);
    else command('mount', image, at, ...args);
    const forget = this.onCleanUp(() => spawnSync(process.execPath, [cli, 'unmount', at], { env: environment }));
    const unmount = async () => {
      forget();
      command('unmount', at);
    };
    return { file: join(at, 'disk.raw'), command, unmount };
  }

  /** QEMU mounts on a regular file and has no tool to unmount and wait: SIGTERM, then its exit. */
  async mountQemu(image, at, format, { sharing = false } = {}) {
    const file = `${at}.file`;
    writeFileSync(file, '');
    const locking = sharing ? ',locking=off' : '';
    const daemon = this.start('qemu-storage-daemon', [
      ...['--blockdev', `driver=file,node-name=file,filename=${image},discard=unmap${locking}`],
      ...['--blockdev', `driver=${format},node-name=disk,file=file,discard=unmap`],
      ...['--export', `type=fuse,id=export,node-name=disk,mountpoint=${file},writable=on`],
    ]);
    await until(() => statSync(file).size > 0, 'qemu-storage-daemon did not export the image');
    return { file, unmount: () => daemon.stop('SIGTERM') };
  }

  /**
   * Starts a program that goes on beside the rows. In a session of its own, as a mount has one: where Linux shares the processors
   * among sessions, those that share one with this program would have less. @returns how to end it and wait for that
   */
  start(program, args, options = { stdio: ['ignore', 'ignore', 'inherit'] }) {
    const child = spawn(program, args, { env: this.environment, detached: true, ...options });
    const ended = new Promise((resolve) => child.on('exit', resolve));
    const forget = this.onCleanUp(() => child.kill('SIGKILL'));
    return {
      child,
      stop: async (signal) => {
        forget();
        child.kill(signal);
        await ended;
      },
    };
  }

  /** Has cleanUp() call `stop`, unless the function returned is called before. */
  onCleanUp(stop) {
    this.#stops.add(stop);
    return () => this.#stops.delete(stop);
  }

  cleanUp() {
    for (const stop of [...this.#stops].reverse()) stop();
    this.#stops.clear();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** CPU time of all threads of a process so far, in seconds; NaN if the kernel does not count it to the nanosecond. */
export function cpuSecondsOf(pid) {
  let nanoseconds = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const file = `/proc/${pid}/task/${thread}/schedstat`;
    nanoseconds += existsSync(file) ? Number(readFileSync(file, 'utf8').split(' ')[0]) : NaN;
  }
  return nanoseconds / 1e9;
}

/** Waits until `isTrue`, five seconds at most. */
export async function until(isTrue, complaint) {
  for (let wait = 0; !isTrue(); wait++) {
    if (wait > 500) throw new Error(complaint);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

function isInstalled(program) {
  return spawnSync(program, ['--version']).status === 0;
}
