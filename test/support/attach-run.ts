// Runs of attach and detach on one image, some of them killed or interrupted at a random moment. After each run the same is looked
// for: nothing is left of it, and the guest's file system is sound with every file that was synced.

import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { expect } from 'vitest';
import { type Bench, exitOf, mountsUnder, until } from '../mount/cli-harness.ts';
import { exactSize, fsckOf, makeGuestDisk, type PlacedPart, run } from './guest-images.ts';

export type Guest = 'ext4' | 'xfs' | 'btrfs';

const GUESTS: Readonly<Record<Guest, { readonly mib: number; readonly make: readonly string[] }>> = {
  ext4: { mib: 48, make: ['mkfs.ext4', '-q', '-F'] },
  xfs: { mib: 304, make: ['mkfs.xfs', '-q', '-f'] },
  btrfs: { mib: 128, make: ['mkfs.btrfs', '-q', '-f'] },
};

/** What happens to which process, and when: at a random moment of the time that it usually takes. */
export const FATES = [
  'kill attach',
  'interrupt attach',
  'kill detach',
  'kill mount',
  'kill program',
  'kill both',
] as const;
export type Fate = (typeof FATES)[number];

const INTERRUPTS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const;

export class AttachRun {
  private readonly bench: Bench;
  private readonly type: Guest;
  private readonly format: string;
  private readonly part: PlacedPart;
  private readonly synced: string[] = [];
  readonly image: string;
  readonly guest: string;
  /** runs after which there was something to detach */
  takenBack = 0;
  /** how long an attach takes here */
  private attachMs = 500;

  constructor(bench: Bench, type: Guest, format: string) {
    this.bench = bench;
    this.type = type;
    this.format = format;
    const raw = bench.path(`${type}-on-${format}.img`);
    const { mib, make } = GUESTS[type];
    this.part = makeGuestDisk(raw, 'gpt', [{ mib, make }])[0]!;
    this.image = bench.path(`${type}.${format}`);
    this.guest = bench.makeDirectory(`${type}-on-${format}`);
    run('qemu-img', ['convert', '-f', 'raw', '-O', format, ...exactSize(format), raw, this.image]);
  }

  private imgfuse(...parameters: readonly string[]): void {
    const { code, stderr } = this.bench.imgfuse(...parameters);
    expect(code, `imgfuse ${parameters.join(' ')}: ${stderr}`).toBe(0);
  }

  /** Attaches, writes a file that is synced, detaches. */
  cycle(name: string): void {
    const start = performance.now();
    this.imgfuse('attach', this.image, this.guest);
    this.attachMs = performance.now() - start;
    this.writeFile(name);
    this.imgfuse('detach', this.image);
    this.assertNothingLeft();
  }

  private writeFile(name: string): void {
    const script = `head -c 300000 /dev/urandom >${name} && sync ${name} && sync .`;
    run('sh', ['-euc', `cd ${this.guest} && ${script}`]);
    this.synced.push(name);
  }

  /** @param moment of 0 to 1 of the time that the step takes */
  async suffer(fate: Fate, moment: number, name: string): Promise<void> {
    if (fate === 'kill attach') await this.killAttach(moment);
    else if (fate === 'interrupt attach') await this.interruptAttach(moment);
    else if (fate === 'kill program') await this.killProgram(moment);
    else if (fate === 'kill both') await this.killBoth(moment);
    else await this.attachAnd(fate, moment, name);
    await this.takeBack();
  }

  /** SIGKILL: what is there then stays, until it is detached. */
  private async killAttach(moment: number): Promise<void> {
    const child = this.bench.start('attach', this.image, this.guest);
    await delay(moment * this.attachMs * 1.2);
    child.kill('SIGKILL');
    await exitOf(child);
  }

  /** Any other signal: it takes back what it has made, unless it was done already. */
  private async interruptAttach(moment: number): Promise<void> {
    const child = this.bench.start('attach', this.image, this.guest);
    // a program that has not come to its first line yet cannot handle a signal
    await delay(150 + moment * this.attachMs);
    const signal = INTERRUPTS[Math.floor(moment * 97) % INTERRUPTS.length]!;
    child.kill(signal);
    const end = await exitOf(child);
    if (end === 0) return;
    await this.assertSoonNothingLeft(`${signal}, and the command ended with ${end}: ${child.output()}`);
  }

  /** The command that runs a program is killed, and the program goes on for a while. */
  private async killProgram(moment: number): Promise<void> {
    const child = this.bench.start('attach', this.image, this.guest, '--', 'sleep', '1');
    await delay(moment * (this.attachMs + 1000));
    child.kill('SIGKILL');
    await exitOf(child);
    await delay(1000);
  }

  /** The command and the mount process at the same moment, as when a machine runs out of memory. */
  private async killBoth(moment: number): Promise<void> {
    const child = this.bench.start('attach', this.image, this.guest);
    await delay(moment * this.attachMs * 1.2);
    child.kill('SIGKILL');
    for (const pid of this.mountProcesses()) kill(pid);
    await exitOf(child);
  }

  private async attachAnd(fate: 'kill detach' | 'kill mount', moment: number, name: string): Promise<void> {
    this.imgfuse('attach', this.image, this.guest);
    this.writeFile(name);
    if (fate === 'kill mount') {
      const writer = spawnWriter(this.guest);
      await delay(moment * 300);
      for (const pid of this.mountProcesses()) kill(pid);
      kill(writer);
      return;
    }
    const child = this.bench.start('detach', this.image);
    await delay(moment * this.attachMs);
    child.kill('SIGKILL');
    await exitOf(child);
  }

  private mountProcesses(): number[] {
    return this.processes().filter((pid) => commandLine(pid).startsWith('imgfuse mount'));
  }

  /** Detaches what is there; then nothing may be left. */
  private async takeBack(): Promise<void> {
    const { code, stderr } = this.bench.imgfuse('detach', this.image);
    if (code === 0 || !stderr.includes('is not attached')) this.takenBack++;
    const isExplained =
      /is not attached|was not closed clean|had ended without closing|its mount was gone already/.test(stderr);
    expect(code === 0 || isExplained, `detach ended with ${code}: ${stderr}`).toBe(true);
    await this.assertSoonNothingLeft(stderr);
  }

  /** A mount process that has lost its command ends a moment later. */
  private async assertSoonNothingLeft(what: string): Promise<void> {
    await until(() => this.leftovers().length === 0, `${this.leftovers().join(', ')} left after ${what}`).catch(
      () => {},
    );
    this.assertNothingLeft(what);
  }

  private assertNothingLeft(what = ''): void {
    expect(this.leftovers(), what).toEqual([]);
  }

  /** Loop devices, mounts, records and processes. */
  private leftovers(): string[] {
    const records = existsSync(`${this.bench.runtime}/attached`) ? readdirSync(`${this.bench.runtime}/attached`) : [];
    const processes = this.processes().map((pid) => `process ${pid}: ${commandLine(pid)}`);
    return [...mountsUnder(this.bench.directory), ...loopsUnder(this.bench.directory), ...records, ...processes];
  }

  private processes(): number[] {
    return readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
      .map(Number)
      .filter((pid) => commandLine(pid).includes(this.image));
  }

  /** The journal is replayed by one more attach; then every checker is content, and no synced file is missing. */
  assertSound(): void {
    this.imgfuse('attach', this.image, this.guest);
    const there = readdirSync(this.guest);
    expect(this.synced.filter((name) => !there.includes(name))).toEqual([]);
    this.imgfuse('detach', this.guest);
    this.assertNothingLeft();
    const raw = this.bench.path('copy.img');
    this.bench.assertSound(this.image, this.format);
    run('qemu-img', ['convert', '-f', this.format, '-O', 'raw', this.image, raw]);
    expect(fsckOf(this.type, raw, this.part)).toBeNull();
  }
}

/** A program that writes until its disk is gone. @returns its process */
function spawnWriter(directory: string): number {
  const script = `cd ${directory} && { while :; do head -c 100000 /dev/zero >written && sync written; done >/dev/null 2>&1 & echo $!; }`;
  const { stdout } = spawnSync('sh', ['-c', script], { encoding: 'utf8' });
  return Number(stdout.trim());
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {}
}

function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
  } catch {
    return '';
  }
}

export function loopsUnder(directory: string): string[] {
  return readdirSync('/sys/block').filter((name) => {
    const file = `/sys/block/${name}/loop/backing_file`;
    try {
      return readFileSync(file, 'utf8').startsWith(`${directory}/`);
    } catch {
      return false;
    }
  });
}
