// Who may open an image beside whom: every program of QEMU that opens images against every way imgfuse does, in both orders.
// Invariant shown: no two writers, no reader beside a writer but one that asked for that, and a refusal changes nothing.

import { spawn } from 'node:child_process';
import { appendFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { checkDisk, createDisk, openDisk } from '../../src/disk/index.ts';
import { nativeAvailable } from '../../src/native/index.ts';
import { drawnRows } from '../support/drawn-rows.ts';
import { fingerprints, isBuilt } from '../support/image-files.ts';
import {
  type Held,
  type Holder,
  IMGFUSE_HOLDERS,
  IMGFUSE_VISITORS,
  mayShare,
  QEMU_HOLDERS,
  QEMU_VISITORS,
  type Visitor,
  visit,
} from '../support/lock-parties.ts';
import { hasQemu, qemuCheck } from '../support/qemu.ts';
import { hasCommand, requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const SIZE = 4 << 20;
const RACER = fileURLToPath(new URL('../support/lock-racer.mjs', import.meta.url));
const RACERS = 6;

let folder: string;
let held: Held | null = null;

beforeEach((context) => {
  requireOrSkip(context, hasQemu && hasCommand('qemu-storage-daemon'), 'qemu-img, qemu-io and qemu-storage-daemon');
  requireOrSkip(context, nativeAvailable() && isBuilt(), 'the package koffi and dist/cli.js (npm run build)');
  folder = makeTemporaryDirectory();
});
afterEach(async () => {
  await held?.release();
  held = null;
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

/** An image with data all over it, so that reading it takes a throttled program its time. */
function makeImage(format: string): string {
  const image = join(folder, `disk.${format}`);
  rmSync(image, { force: true });
  createDisk(image, format, { size: SIZE, options: new Map() });
  const disk = openDisk(image, { readOnly: false, format });
  disk.write(new Uint8Array(SIZE).fill(0x5a), 0, SIZE, guestOffset(0));
  disk.close();
  writeFileSync(`${image}.source`, new Uint8Array(SIZE).fill(0xa5));
  return image;
}

function fits(format: string): (party: Holder | Visitor) => boolean {
  return (party) => party.without?.includes(format) !== true;
}

async function meet(holder: Holder, visitors: readonly Visitor[], format: string): Promise<void> {
  let image = makeImage(format);
  for (const visitor of visitors) {
    // QEMU does not write to one that a killed QEMU has left marked
    if (format === 'parallels') image = makeImage(format);
    // what the first one does may be over before the last one comes
    held = await holder.hold(image, format);
    const allowed = mayShare(holder.access, visitor.access) || (format === 'raw' && visitor.sharesRaw === true);
    const before = fingerprints(folder)[`disk.${format}`];
    const { opened, message } = visit(visitor, image, format);
    expect(opened, `${visitor.name} beside ${holder.name}: ${message}`).toBe(allowed);
    if (!allowed) expectNamed(message, visitor, held, image);
    // a writer may have changed it meanwhile, and so may one that was let in
    if (!allowed && holder.access !== 'write') expect(fingerprints(folder)[`disk.${format}`]).toBe(before);
    await held.release();
    held = null;
  }
}

function expectNamed(message: string, visitor: Visitor, holder: Held, image: string): void {
  if (QEMU_VISITORS.includes(visitor)) return expect(message).toMatch(/lock/i);
  expect(message).toContain(image);
  expect(message, visitor.name).toContain(`(process ${holder.pid})`);
}

/** All images that are one file are locked alike, so that these meet the writers and a reader only. */
const BRIEF = ['qcow', 'vmdk', 'parallels'];

describe.each(
  drawnRows(['qed', 'qcow2', 'vdi', 'vpc', 'vhdx', 'raw', ...BRIEF], (format) => ['qcow2', 'raw'].includes(format)),
)('%s', (format) => {
  const isBrief = BRIEF.includes(format);

  describe('open in imgfuse', () => {
    for (const holder of IMGFUSE_HOLDERS.slice(0, isBrief ? 1 : undefined)) {
      test(`${holder.name}: every other program finds what it may find`, async () => {
        await meet(holder, [...QEMU_VISITORS, ...IMGFUSE_VISITORS].filter(fits(format)), format);
      });
    }
  });

  describe('open in QEMU', () => {
    for (const holder of QEMU_HOLDERS.filter(fits(format)).slice(0, isBrief ? 2 : undefined)) {
      test(`${holder.name}: imgfuse opens it, or says who has it`, async () => {
        const visitors = IMGFUSE_VISITORS.filter(fits(format));
        await meet(holder, holder === QEMU_HOLDERS[0] ? visitors : visitors.filter((each) => !each.isCommand), format);
      });
    }
  });

  if (isBrief) return;
  test(`of ${RACERS} writers that start at once, in two programs, never two have it`, async () => {
    const image = makeImage(format);
    const log = join(folder, 'log');
    writeFileSync(log, '');
    // two of its own writers QEMU lets into a raw image
    const qemuRacers = format === 'raw' ? 1 : RACERS / 2;
    const ends = Array.from(
      { length: RACERS },
      (_, index) =>
        new Promise<number | null>((resolve) => {
          const child = spawn(
            process.execPath,
            [RACER, image, format, log, index < qemuRacers ? 'qemu-io' : 'imgfuse'],
            {
              stdio: 'ignore',
            },
          );
          child.on('exit', resolve);
        }),
    );
    expect(await Promise.all(ends)).toEqual(ends.map(() => 0));
    let inside = 0;
    const steps = readFileSync(log, 'utf8').trim().split('\n');
    for (const step of steps) {
      inside += step.startsWith('+') ? 1 : -1;
      expect(inside, `two writers at once:\n${steps.join('\n')}`).toBeLessThan(2);
    }
    expect(steps.filter((step) => step.startsWith('+imgfuse')).length).toBeGreaterThan(0);
    expect(steps.filter((step) => step.startsWith('+qemu-io')).length).toBeGreaterThan(0);
    if (format === 'raw') return;
    // qemu-img has no check of VHD
    if (format === 'vpc') expect(checkDisk(image, { repair: 'none', log: () => undefined }).corruptions).toBe(0);
    else qemuCheck(image, format);
  });
});

test('a program with a POSIX lock on the whole file is named from /proc/locks', async (context) => {
  requireOrSkip(context, hasCommand('python3'), 'python3, for a POSIX lock');
  const image = makeImage('qed');
  const child = spawn('python3', ['-c', POSIX_LOCK, image], { stdio: ['pipe', 'pipe', 'inherit'] });
  try {
    await new Promise((resolve) => child.stdout.once('data', resolve));
    appendFileSync(join(folder, 'note'), 'locked');
    expect(() => openDisk(image, { readOnly: true })).toThrow(`(process ${child.pid}), which locks all of it`);
  } finally {
    child.kill('SIGKILL');
  }
});

const POSIX_LOCK = `
import fcntl, sys
f = open(sys.argv[1], 'r+b')
fcntl.lockf(f, fcntl.LOCK_EX)
print('locked', flush=True)
sys.stdin.read()
`;
