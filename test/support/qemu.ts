// qemu-img and qemu-io as tests use them: images made, read, written and judged by another program.

import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { hasCommand } from './requirements.ts';

export const hasQemu = hasCommand('qemu-img') && hasCommand('qemu-io');

/** qemu-img takes seconds for a LUKS image, and many times as long on a machine full of other work. */
const TIMEOUT_MS = 60_000;

/** Runs qemu-img and returns what it prints. @throws with its output when it fails */
export function qemuImg(...args: string[]): string {
  for (let attempt = 1; ; attempt++) {
    const { status, stdout, stderr, error } = spawnSync('qemu-img', args, { encoding: 'utf8', timeout: TIMEOUT_MS });
    if (status === 0) return stdout;
    // it measures CPU time to choose LUKS iterations, and gives up where the host's clock is coarse; then again
    if (attempt === 40 || !stderr?.includes('Unable to get accurate CPU usage')) {
      throw new Error(`qemu-img ${args.join(' ')}: ${stderr}`, { cause: error });
    }
  }
}

/** qemu-img where it is expected to fail. */
export function tryQemu(command: 'qemu-img' | 'qemu-io', ...args: string[]): { code: number | null; output: string } {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', timeout: TIMEOUT_MS });
  return { code: status, output: `${stdout}${stderr}` };
}

/** Runs commands of qemu-io in one session. @throws when one of them fails */
export function qemuIo(image: string, format: string, ...commands: string[]): string {
  const output = execFileSync('qemu-io', ['-f', format, ...commands.flatMap((command) => ['-c', command]), image], {
    encoding: 'utf8',
    timeout: TIMEOUT_MS,
  });
  if (/failed|error|mismatch/i.test(output)) throw new Error(output);
  return output;
}

/** Expects `qemu-img check` to find nothing, not even a leak. */
export function qemuCheck(image: string, format: string): void {
  const { code, output } = tryQemu('qemu-img', 'check', '-f', format, image);
  if (code !== 0) throw new Error(`qemu-img check exits with ${code}: ${output}`);
}

/** A program that holds an image open until it is stopped. */
export class QemuHolder {
  private readonly child: ChildProcess;
  private output = '';
  readonly ended: Promise<unknown>;

  private constructor(child: ChildProcess) {
    this.child = child;
    this.ended = once(child, 'exit');
    const more = (data: unknown): void => {
      this.output += String(data);
    };
    child.stdout!.on('data', more);
    child.stderr!.on('data', more);
  }

  /** qemu-io with its stdin kept open; returns once it has run `commands`, and with them opened the image. */
  static async open(image: string, options: readonly string[], ...commands: string[]): Promise<QemuHolder> {
    const holder = new QemuHolder(spawn('qemu-io', [...options, image], { stdio: ['pipe', 'pipe', 'pipe'] }));
    await holder.prompt();
    // one at a time: it sleeps on a pipe although it has read the next line already
    for (const command of commands) await holder.run(command);
    return holder;
  }

  get pid(): number {
    return this.child.pid!;
  }

  /** One more command. @returns what qemu-io has printed when it has run it */
  async run(command: string): Promise<string> {
    this.output = '';
    this.child.stdin!.write(`${command}\n`);
    await this.prompt();
    return this.output;
  }

  /** Lets it close the image; by force, and with an error, where it does not end by itself. */
  async close(): Promise<void> {
    if (this.isGone()) return;
    this.child.stdin!.end('quit\n');
    const timer = setTimeout(() => this.child.kill('SIGKILL'), 10_000);
    await this.ended;
    clearTimeout(timer);
    if (this.child.signalCode !== null) throw new Error(`qemu-io did not end: ${this.child.signalCode}`);
  }

  /** SIGKILL: the image stays as it is. */
  async kill(): Promise<void> {
    if (this.isGone()) return;
    this.child.kill('SIGKILL');
    await this.ended;
  }

  private async prompt(): Promise<void> {
    for (let waited = 0; !this.output.includes('qemu-io> '); waited += 10) {
      if (waited > 10_000 || this.isGone()) {
        await this.kill();
        throw new Error(`qemu-io is not ready: ${this.output}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  private isGone(): boolean {
    return this.child.exitCode !== null || this.child.signalCode !== null;
  }
}
