// A soak: guests on images of every format, all under load at the same time, for as long as
// test/support/slices.ts says. fio verifies what
// it wrote, files come and go, fstrim gives their space back; at the end every fsck passes, every image is clean, and the
// daemons have not grown. scripts/soak.sh runs it for an hour.

import { spawn } from 'node:child_process';
import { readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { sliceOf } from '../support/slices.ts';
import { Bench, exitOf } from './cli-harness.ts';

const SECONDS = sliceOf('soak');
const SAMPLE_MS = Math.min(10_000, Math.max(250, SECONDS * 5));
const FILE_MIB = 48;
/** how far the memory of the last quarter may lie above that of the second: caches fill, and the collector is lazy */
const GROWTH = 1.1;
const GROWTH_BYTES = 24 * 2 ** 20;

interface Guest {
  readonly format: string;
  readonly filesystem: string;
  readonly make: readonly string[];
  readonly check: readonly string[];
}

const GUESTS: readonly Guest[] = [
  { format: 'qed', filesystem: 'ext4', make: ['mkfs.ext4', '-q', '-F'], check: ['e2fsck', '-f', '-n'] },
  { format: 'qcow2', filesystem: 'xfs', make: ['mkfs.xfs', '-q', '-f'], check: ['xfs_repair', '-n'] },
  { format: 'vdi', filesystem: 'xfs', make: ['mkfs.xfs', '-q', '-f'], check: ['xfs_repair', '-n'] },
  { format: 'vpc', filesystem: 'ext4', make: ['mkfs.ext4', '-q', '-F'], check: ['e2fsck', '-f', '-n'] },
  { format: 'vmdk', filesystem: 'ext4', make: ['mkfs.ext4', '-q', '-F'], check: ['e2fsck', '-f', '-n'] },
  { format: 'vhdx', filesystem: 'ext4', make: ['mkfs.ext4', '-q', '-F'], check: ['e2fsck', '-f', '-n'] },
  { format: 'parallels', filesystem: 'ext4', make: ['mkfs.ext4', '-q', '-F'], check: ['e2fsck', '-f', '-n'] },
  { format: 'raw', filesystem: 'btrfs', make: ['mkfs.btrfs', '-q', '-f'], check: ['btrfs', 'check', '--readonly'] },
];

let bench: Bench;
beforeEach((context) => {
  const commands = [
    ...GUESTS.flatMap(({ make, check }) => [make[0]!, check[0]!]),
    'fio',
    'fstrim',
    'losetup',
    'qemu-img',
  ];
  const missing = commands.filter((command) => !hasCommand(command));
  requireOrSkip(
    context,
    canMountAsRoot() && missing.length === 0,
    `root, /dev/fuse and ${missing.join(', ') || 'programs'}`,
  );
  bench = new Bench();
});
afterEach(() => bench?.cleanUp());

/** A guest under load on an image of its own. */
class Soak {
  readonly guest: Guest;
  readonly memory: number[] = [];
  rounds = 0;
  verifiedMib = 0;
  private readonly image: string;
  private readonly at: string;
  private readonly directory: string;
  private loop = '';
  private pid = 0;

  constructor(guest: Guest) {
    this.guest = guest;
    this.image = bench.path(`disk.${guest.format}`);
    this.at = bench.makeDirectory(`mnt-${guest.format}`);
    this.directory = bench.makeDirectory(`guest-${guest.format}`);
  }

  async start(): Promise<void> {
    const { guest, image, at } = this;
    await run('node', ...cli('create', '-q', '-f', guest.format, image, '600M'));
    await run('node', ...cli('mount', '--format', guest.format, image, at));
    this.pid = bench.records().find((record) => record.mountpoint === at)!.pid;
    this.loop = await run('losetup', '--find', '--show', `${at}/disk.raw`);
    await run(guest.make[0]!, ...guest.make.slice(1), this.loop);
    await run('mount', '-o', 'discard', this.loop, this.directory);
  }

  /** fio into new files, which it reads back and compares; then some go, and their space with them. */
  async load(untilMs: number): Promise<void> {
    while (performance.now() < untilMs) {
      const file = join(this.directory, `file-${this.rounds % 3}`);
      const job = ['--name=soak', `--filename=${file}`, `--size=${FILE_MIB}M`, '--rw=randwrite', '--bsrange=4k-128k'];
      const how = [
        '--ioengine=psync',
        '--verify=crc32c',
        '--verify_fatal=1',
        '--fsync=64',
        `--randseed=${this.rounds + 1}`,
      ];
      await run('fio', ...job, ...how);
      this.verifiedMib += FILE_MIB;
      this.rounds++;
      if (this.rounds % 2 === 0) rmSync(file);
      if (this.rounds % 3 === 0) await run('fstrim', this.directory);
    }
  }

  sample(): void {
    const status = readFileSync(`/proc/${this.pid}/status`, 'utf8');
    this.memory.push(Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)![1]) * 1024);
  }

  async finish(): Promise<void> {
    const { guest, image } = this;
    await run('umount', this.directory);
    await run(guest.check[0]!, ...guest.check.slice(1), this.loop);
    await run('losetup', '-d', this.loop);
    await run('node', ...cli('unmount', this.at));
    bench.assertSound(image, guest.format);
  }

  expectFlatMemory(): void {
    const quarter = Math.floor(this.memory.length / 4);
    const early = median(this.memory.slice(quarter, 2 * quarter));
    const late = median(this.memory.slice(-quarter));
    const mib = (bytes: number): string => `${Math.round(bytes / 2 ** 20)} MiB`;
    const { filesystem, format } = this.guest;
    console.log(
      `soak of ${filesystem} on ${format}: ${this.rounds} rounds, ${this.verifiedMib} MiB verified, memory of the daemon ` +
        `${mib(early)} in the second quarter, ${mib(late)} in the last, ${mib(Math.max(...this.memory))} at most`,
    );
    expect(late, `memory of the daemon under ${filesystem}`).toBeLessThan(early * GROWTH + GROWTH_BYTES);
  }
}

function cli(...parameters: readonly string[]): string[] {
  return [process.env['IMGFUSE_CLI'] ?? new URL('../../dist/cli.js', import.meta.url).pathname, ...parameters];
}

/** Runs a command beside the others. @returns what it prints @throws when it fails */
async function run(command: string, ...parameters: readonly string[]): Promise<string> {
  const child = spawn(command, parameters, { cwd: bench.directory, env: bench.environment() });
  let output = '';
  let errors = '';
  child.stdout.on('data', (chunk) => {
    output += String(chunk);
  });
  child.stderr.on('data', (chunk) => {
    errors += String(chunk);
  });
  const code = await exitOf(child);
  expect(code, `${command} ${parameters.join(' ')}: ${errors}${output.slice(-2000)}`).toBe(0);
  return output.trim();
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!;
}

test(`ext4, xfs and btrfs live on images of every format under load for ${SECONDS} seconds`, {
  timeout: SECONDS * 1000 + 600_000,
}, async () => {
  const soaks = GUESTS.map((guest) => new Soak(guest));
  for (const soak of soaks) await soak.start();
  const end = performance.now() + SECONDS * 1000;
  const timer = setInterval(() => {
    for (const soak of soaks) soak.sample();
  }, SAMPLE_MS);
  try {
    await Promise.all(soaks.map((soak) => soak.load(end)));
  } finally {
    clearInterval(timer);
  }
  for (const soak of soaks) await soak.finish();
  for (const soak of soaks) soak.expectFlatMemory();
  expect(statSync(bench.path('disk.raw')).size).toBe(600 * 2 ** 20);
});
