// One run of the kill test: an image under fio with checksums, a writer of numbered blocks and an ext4 guest, its daemon killed
// or told to end at a random moment; then everything that was promised is looked for. Figures are added up over the runs.

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';
import { type Bench, exitOf, until } from '../mount/cli-harness.ts';
import { illegalBlocks, readWriterLog } from './fsync-log.ts';

const WRITER = fileURLToPath(new URL('./fsync-writer.mjs', import.meta.url));
const GUEST_WRITER = fileURLToPath(new URL('./guest-writer.mjs', import.meta.url));

const MIB = 1024 * 1024;
/** Parts of the disk: blocks that fio rewrites, numbered blocks in clusters that are new, a guest's file system. */
const FIO_BYTES = 16 * MIB;
const NUMBERED_BYTES = 64 * MIB;
const GUEST_START = FIO_BYTES + NUMBERED_BYTES;
const GUEST_BYTES = 96 * MIB;
const DISK_BYTES = GUEST_START + GUEST_BYTES;
/** Blocks that say where they belong: the same however often they are written, so that they verify after any crash. */
const FIO_BLOCKS = [
  '--ioengine=libaio',
  '--direct=1',
  '--verify=pattern',
  '--verify_pattern=%o',
  '--verify_interval=4k',
];

/** As many as the signals do not divide, so that each kind gets either of them in a long run. */
export const KINDS = [
  'qed',
  'qcow2',
  'raw',
  'vdi',
  'vhdx',
  'vpc',
  'vmdk',
  'parallels',
  'qed over data',
  'qcow2 over data',
  'vdi over data',
  'vmdk over data',
  'vpc over data',
  'vhdx over data',
  'vpc, fixed',
  'vhdx, fixed',
  'qcow',
] as const;
export type Kind = (typeof KINDS)[number];
export type Signal = 'SIGKILL' | 'SIGTERM';

export interface KillFigures {
  killed: number;
  terminated: number;
  /** blocks of 4 KiB with a promise, looked at afterwards */
  blocks: number;
  files: number;
  repaired: number;
}

export class KillRun {
  private readonly bench: Bench;
  private readonly kind: Kind;
  private readonly image: string;
  private readonly mountpoint: string;
  private readonly guest: string;
  private loop = '';

  constructor(bench: Bench, kind: Kind) {
    this.bench = bench;
    this.kind = kind;
    this.image = bench.path(`disk.${this.format}`);
    this.mountpoint = bench.makeDirectory('mnt');
    this.guest = bench.makeDirectory('guest');
  }

  private get format(): string {
    return this.kind.split(/,? /)[0]!;
  }

  private get isOverlay(): boolean {
    return this.kind.endsWith('over data');
  }

  private get disk(): string {
    return `${this.mountpoint}/disk.raw`;
  }

  /** @param afterMs when the signal comes, counted from the moment that everything has been flushed once */
  async run(signal: Signal, afterMs: number, workers: number, figures: KillFigures): Promise<void> {
    this.create();
    const daemon = await this.mount(workers);
    this.attachGuest();
    this.command('mkfs.ext4', '-q', '-F', this.loop);
    this.command('mount', this.loop, this.guest);
    this.fio('--rw=write', '--bs=4k', '--iodepth=16', '--do_verify=0', '--end_fsync=1');
    const users = this.startLoad();
    for (const log of ['writer.log', 'guest.log']) {
      await until(
        () => existsSync(this.bench.path(log)) && /^f /m.test(readFileSync(this.bench.path(log), 'utf8')),
        log,
      );
    }
    await delay(afterMs);
    daemon.kill(signal);
    const ended = await exitOf(daemon);
    for (const user of users) await exitOf(user);
    await this.dropGuest();
    if (signal === 'SIGTERM') this.expectCleanEnd(ended, daemon.output());
    else this.expectDeadMount();
    await this.verify(signal, figures);
    figures[signal === 'SIGKILL' ? 'killed' : 'terminated']++;
  }

  private create(): void {
    const { image, format, bench } = this;
    if (!this.isOverlay) {
      const options = this.kind.endsWith(', fixed') ? ['-o', 'subformat=fixed'] : [];
      this.imgfuse('create', '-q', '-f', format, ...options, image, String(DISK_BYTES));
      return;
    }
    // zeros as data: a block that was never written reads as the log of the writer says, and R6 holds links back
    const base = bench.path(`base.${format}`);
    this.imgfuse('create', '-q', '-f', format, base, String(DISK_BYTES));
    this.imgfuse('mount', base, this.mountpoint);
    this.command('dd', 'if=/dev/zero', `of=${this.disk}`, 'bs=1M', `count=${GUEST_START / MIB}`, 'conv=notrunc,fsync');
    this.imgfuse('unmount', this.mountpoint);
    this.imgfuse('create', '-q', '-f', format, '-b', `base.${format}`, '-F', format, image);
  }

  private async mount(workers: number): Promise<ChildProcess & { output: () => string }> {
    const parameters = ['--format', this.format, '--workers', String(workers), this.image, this.mountpoint];
    const daemon = this.bench.start('mount', '-f', ...parameters);
    await until(() => daemon.output().includes('is mounted at') || daemon.exitCode !== null, 'the mount');
    expect(daemon.exitCode, daemon.output()).toBe(null);
    return daemon;
  }

  private attachGuest(): void {
    const range = ['--offset', String(GUEST_START), '--sizelimit', String(GUEST_BYTES)];
    this.loop = this.command('losetup', '--find', '--show', ...range, this.disk).trim();
  }

  private startLoad(): ChildProcess[] {
    const { bench, disk } = this;
    const load = ['--rw=randwrite', '--bs=4k', '--iodepth=4', '--fsync=16', '--do_verify=0', '--norandommap'];
    const fio = spawn('fio', [...this.fioOptions(), ...load, '--time_based', '--runtime=60'], {
      stdio: 'ignore',
      cwd: bench.directory,
    });
    const numbered = [WRITER, disk, String(FIO_BYTES), String(NUMBERED_BYTES), bench.path('writer.log')];
    const writer = spawn(process.execPath, numbered, { stdio: 'ignore' });
    const guest = spawn(process.execPath, [GUEST_WRITER, this.guest, bench.path('guest.log')], { stdio: 'ignore' });
    return [fio, writer, guest];
  }

  /** The guest of a dead disk gives up what it cannot write, and then lets go. */
  private async dropGuest(): Promise<void> {
    for (let tries = 0; this.bench.run('umount', [this.guest]).code !== 0; tries++) {
      if (tries > 100) throw new Error(`${this.guest} cannot be unmounted`);
      await delay(50);
    }
    this.command('losetup', '-d', this.loop);
  }

  private expectCleanEnd(code: number | string, output: string): void {
    expect(code, output).toBe(0);
    expect(output).toMatch(/is closed and clean/);
    if (this.format === 'raw') return;
    expect(JSON.parse(this.imgfuse('info', '--output=json', this.image))).toMatchObject({ 'dirty-flag': false });
    this.bench.assertSound(this.image, this.format);
  }

  private expectDeadMount(): void {
    // allocations were under way all the time, so the bit is set
    if (this.format === 'qed') expect(readFileSync(this.image)[16]! & 2, 'NEED_CHECK in the file').toBe(2);
    const { code, stdout, stderr } = this.bench.imgfuse('unmount', this.mountpoint);
    expect(code, stderr).toBe(0);
    expect(stdout + stderr, 'the way back is printed').toMatch(/imgfuse check/);
    if (this.format === 'raw') return;
    // leaks at worst, but for QED, whose entries may be ahead of the file, and for Parallels, where the mark itself is an error
    const check = this.bench.imgfuse('check', '-f', this.format, this.image);
    expect(['qed', 'parallels'].includes(this.format) ? [0, 2, 3] : [0, 3], check.stdout).toContain(check.code);
    const errors = check.stdout.split('\n').filter((line) => line.startsWith('ERROR'));
    if (this.format === 'parallels') expect(errors.filter((line) => !line.includes('is in use'))).toEqual([]);
  }

  private async verify(signal: Signal, figures: KillFigures): Promise<void> {
    const daemon = await this.mount(2);
    if (/was not closed clean/.test(daemon.output())) figures.repaired++;
    if (signal === 'SIGKILL' && this.format === 'qed') expect(daemon.output()).toMatch(/was not closed clean/);
    const writes = readWriterLog(this.bench.path('writer.log'));
    expect(writes.lastFsync, 'the load has written').toBeGreaterThan(0);
    expect(illegalBlocks(this.disk, FIO_BYTES, writes, this.promised(signal, writes))).toEqual([]);
    figures.blocks += writes.writes.size;
    this.fio('--rw=read', '--bs=4k', '--iodepth=4');
    figures.blocks += FIO_BYTES / 4096;
    this.attachGuest();
    this.command('mount', this.loop, this.guest);
    figures.files += this.verifyFiles();
    this.command('umount', this.guest);
    this.command('e2fsck', '-f', '-n', this.loop);
    this.command('losetup', '-d', this.loop);
    this.imgfuse('unmount', this.mountpoint);
    expect(await exitOf(daemon), daemon.output()).toBe(0);
    if (this.format === 'raw') return;
    // qcow2 has no bit that says it was killed: clusters that were taken and not yet linked stay as leaks
    if (signal === 'SIGKILL') this.imgfuse('check', '-q', '-r', 'leaks', '-f', this.format, this.image);
    this.bench.assertSound(this.image, this.format);
  }

  /** Every write up to this one must be there: R9 holds back first writes of qcow2 and over a backing file. */
  private promised(signal: Signal, writes: ReturnType<typeof readWriterLog>): number {
    const isHeldBack = this.format === 'qcow2' || this.isOverlay;
    return signal === 'SIGKILL' && isHeldBack ? writes.lastFsync : writes.lastWrite - 1;
  }

  /** @returns files that were fsynced, not removed, and are all there */
  private verifyFiles(): number {
    const sizes = new Map<string, number>();
    for (const line of readFileSync(this.bench.path('guest.log'), 'utf8').split('\n')) {
      const [kind, number, bytes] = line.split(' ');
      if (kind === 'f') sizes.set(number!, Number(bytes));
      if (kind === 'd') sizes.delete(number!);
    }
    expect(sizes.size, 'the guest has written').toBeGreaterThan(0);
    for (const [number, bytes] of sizes) {
      const path = join(this.guest, `file-${number}`);
      expect(existsSync(path), path).toBe(true);
      expect(readFileSync(path).equals(Buffer.alloc(bytes, `${number} `)), path).toBe(true);
    }
    return sizes.size;
  }

  private fioOptions(): string[] {
    const file = ['--name=kill', `--filename=${this.disk}`, `--size=${FIO_BYTES}`, '--allow_file_create=0'];
    return [...file, ...FIO_BLOCKS];
  }

  private fio(...options: readonly string[]): void {
    this.command('fio', ...this.fioOptions(), ...options);
  }

  private imgfuse(...parameters: readonly string[]): string {
    const { code, stdout, stderr } = this.bench.imgfuse(...parameters);
    expect(code, `imgfuse ${parameters.join(' ')}: ${stderr}`).toBe(0);
    return stdout;
  }

  private command(name: string, ...parameters: readonly string[]): string {
    const { code, stdout, stderr } = this.bench.run(name, parameters);
    expect(code, `${name} ${parameters.join(' ')}: ${stderr}${stdout}`).toBe(0);
    return stdout;
  }
}
