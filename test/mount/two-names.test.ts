// Two files with the same bytes, used by two processes in a real mount: nobody ever sees old bytes, and there are never two writers.
// The other process is a Python program that does what it is told, because it can map files.

import { closeSync, constants, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { mbrSector } from '../support/partition-bytes.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { ToldProgram } from '../support/told-program.ts';
import { Bench, lines, until } from './cli-harness.ts';

const { O_DIRECT, O_RDONLY, O_RDWR } = constants;
const MiB = 1024 * 1024;
/** partition 1, and partition 3, which overlaps it */
const START = MiB;
const OVERLAP = 4 * MiB;
const PAGE = 4096;
/** Bytes of a mapping: as many as the smallest of the files has. */
const MAPPED = 2 * MiB;

/** Commands on its standard input, one answer each: open FLAGS PATH, read AT, write AT BYTE, map (shared or private), see AT, store AT BYTE, close */
const PROGRAM = `
import mmap, os, sys
file = mapped = None
def block(at):
    area = mmap.mmap(-1, ${PAGE})
    os.preadv(file, [area], at)
    return area[:]
def letters(data): return ''.join(sorted(set(data.decode('latin1'))))
for line in sys.stdin:
    words = line.split()
    try:
        if words[0] == 'open': file = os.open(words[2], int(words[1])); answer = 'ok'
        elif words[0] == 'read': answer = letters(block(int(words[1])))
        elif words[0] == 'write':
            area = mmap.mmap(-1, ${PAGE}); area[:] = words[2].encode() * ${PAGE}
            answer = str(os.pwritev(file, [area], int(words[1])))
        elif words[0] == 'map':
            private = words[1] == 'private'
            mapped = mmap.mmap(file, ${MAPPED}, mmap.MAP_PRIVATE if private else mmap.MAP_SHARED, mmap.PROT_READ if words[1] != 'shared' else mmap.PROT_READ | mmap.PROT_WRITE)
            answer = 'ok'
        elif words[0] == 'see': answer = letters(mapped[int(words[1]):int(words[1]) + ${PAGE}])
        elif words[0] == 'store': mapped[int(words[1]):int(words[1]) + ${PAGE}] = words[2].encode() * ${PAGE}; answer = 'ok'
        elif words[0] == 'sync': mapped.flush(); answer = 'ok'
        elif words[0] == 'unmap': mapped.close(); answer = 'ok'
        elif words[0] == 'close': os.close(file); answer = 'ok'
    except OSError as error: answer = os.strerror(error.errno)
    print(answer, flush=True)
`;

let bench: Bench;
let others: ToldProgram[] = [];

beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  requireOrSkip(context, hasCommand('python3'), 'python3, for mappings');
  bench = new Bench();
  bench.makeDirectory('mnt');
  others = [];
});
afterEach(async () => {
  for (const other of others) await other.end();
  bench?.cleanUp();
});

function another(): ToldProgram {
  const program = new ToldProgram(PROGRAM);
  others.push(program);
  return program;
}

const disk = () => bench.path('mnt/disk.raw');
const part = (number: number) => bench.path(`mnt/partitions/${number}.raw`);

/** A disk with partitions 1 and 2 beside each other, and 3, which overlaps 1. */
function mount(...options: readonly string[]): void {
  expect(bench.imgfuse('create', '-f', 'qcow2', 'a.qcow2', '32M').code).toBe(0);
  expect(bench.imgfuse('mount', 'a.qcow2', 'mnt', ...options)).toMatchObject({ code: 0, stderr: '' });
  const file = openSync(disk(), 'r+');
  const slot = (start: number, size: number) => ({ type: 0x83, start: start / 512, size: size / 512 });
  writeSync(file, mbrSector([slot(START, 8 * MiB), slot(16 * MiB, 8 * MiB), slot(OVERLAP, 2 * MiB)]), 0, 512, 0);
  closeSync(file);
}

function readLetter(path: string, at: number, flags = O_RDONLY): string {
  const fd = openSync(path, flags);
  const bytes = Buffer.alloc(PAGE);
  readSync(fd, bytes, 0, PAGE, at);
  closeSync(fd);
  return String.fromCharCode(bytes[0]!);
}

function writeLetter(path: string, at: number, letter: string, flags = O_RDWR): void {
  const fd = openSync(path, flags);
  expect(writeSync(fd, Buffer.alloc(PAGE, letter), 0, PAGE, at)).toBe(PAGE);
  closeSync(fd);
}

function log(): string {
  return readFileSync(bench.records()[0]!.log!, 'utf8');
}

/** What each pair of names calls the same byte. */
const PAIRS = [
  { one: 'disk.raw', other: 'partitions/1.raw', at: [START + PAGE, PAGE] },
  { one: 'partitions/1.raw', other: 'disk.raw', at: [PAGE, START + PAGE] },
  { one: 'partitions/1.raw', other: 'partitions/3.raw', at: [OVERLAP - START, 0] },
] as const;

const BUSY = 'Device or resource busy';

describe.each(PAIRS)('$one and $other', ({ one, other, at: [here, there] }) => {
  it('show each other every byte, written and closed by one process, in the other, through pages and past them', async () => {
    mount();
    const [first, second] = [bench.path(`mnt/${one}`), bench.path(`mnt/${other}`)];
    const process = another();
    for (const [mine, theirs] of [
      [0, 0],
      [O_DIRECT, O_DIRECT],
      [0, O_DIRECT],
      [O_DIRECT, 0],
    ] as const) {
      for (const letter of 'abcd') {
        writeLetter(first, here, letter, O_RDWR | mine);
        expect(await process.do(`open ${O_RDWR | theirs} ${second}`)).toBe('ok');
        expect(await process.do(`read ${there}`)).toBe(letter);
        // its pages have the byte now, unless it reads past them
        await process.do(`write ${there} ${letter.toUpperCase()}`);
        expect(await process.do('close')).toBe('ok');
        expect(readLetter(first, here, O_RDONLY | mine)).toBe(letter.toUpperCase());
      }
    }
  });

  it('never have two writers, nor a writer beside a reader with pages; the log names who is in the way', async () => {
    mount();
    const [first, second] = [bench.path(`mnt/${one}`), bench.path(`mnt/${other}`)];
    const process = another();
    for (const flags of [O_RDWR, O_RDONLY, O_RDWR | O_DIRECT]) {
      expect(await process.do(`open ${flags} ${second}`)).toBe('ok');
      expect(() => openSync(first, 'r+')).toThrow('EBUSY');
      expect(() => openSync(first, 'w')).toThrow('EBUSY');
      expect(await process.do('close')).toBe('ok');
      closeSync(openSync(first, 'r+'));
    }
    // at most once from each thread, however often it is tried
    const sentences = lines(log()).flatMap((line) => / warning: .* cannot be opened.*/.exec(line) ?? []);
    expect(sentences.length).toBeLessThanOrEqual(4);
    const told = [...new Set(sentences)];
    expect(told).toHaveLength(2);
    expect(told[0]).toContain(
      `warning: ${one} cannot be opened, because it shows the same bytes as ${other}, which is open for writing by python3 (process ${process.child.pid})`,
    );
    expect(told[1]).toContain('open for reading by python3');
  });

  it('a reader beside a writer sees each write at once, through a descriptor and through a mapping', async () => {
    mount();
    const [first, second] = [bench.path(`mnt/${one}`), bench.path(`mnt/${other}`)];
    writeLetter(first, here, 'a');
    const process = another();
    const writer = openSync(first, 'r+');
    expect(await process.do(`open ${O_RDONLY} ${second}`)).toBe('ok');
    expect(await process.do('map private')).toBe('ok');
    for (const letter of 'bcdef') {
      writeSync(writer, Buffer.alloc(PAGE, letter), 0, PAGE, here);
      expect(await process.do(`read ${there}`)).toBe(letter);
      // the pages of a mapping go a moment after the write
      for (let tries = 0; (await process.do(`see ${there}`)) !== letter; tries++) {
        if (tries > 2000) throw new Error(`the mapping still shows ${await process.do(`see ${there}`)}`);
      }
    }
    // nor does the next one with pages see those of the mapping
    closeSync(writer);
    expect(await process.do('unmap')).toBe('ok');
    expect(await process.do('close')).toBe('ok');
    writeLetter(first, here, 'z');
    expect(readLetter(second, there)).toBe('z');
  });

  it('what was stored through a mapping is there when the file is closed, and holds the file until then', async () => {
    mount();
    const [first, second] = [bench.path(`mnt/${one}`), bench.path(`mnt/${other}`)];
    expect(readLetter(first, here)).toBe('\0');
    const process = another();
    expect(await process.do(`open ${O_RDWR} ${second}`)).toBe('ok');
    expect(await process.do('map shared')).toBe('ok');
    expect(await process.do('close')).toBe('ok');
    expect(await process.do(`store ${there} m`)).toBe('ok');
    expect(() => openSync(first, 'r+'), 'a mapping keeps it open').toThrow('EBUSY');
    await process.end();
    expect(readLetter(first, here)).toBe('m');
    writeLetter(first, here, 'n');
    expect(readLetter(second, there)).toBe('n');
  });
});

it('partitions beside each other have a writer each, at the same time', () => {
  mount();
  const [one, two] = [openSync(part(1), 'r+'), openSync(part(2), 'r+')];
  expect(() => openSync(part(3), 'r+')).toThrow('EBUSY');
  expect(() => openSync(disk(), 'r+')).toThrow('EBUSY');
  closeSync(one);
  closeSync(two);
  closeSync(openSync(disk(), 'r+'));
});

it.each(['1', '2', '8'])('a file that was closed is never in the way, with %s threads', (workers) => {
  mount('--workers', workers);
  for (let round = 0; round < 200; round++) {
    writeLetter(round % 2 === 0 ? disk() : part(1), PAGE + START, 'x', round % 3 === 0 ? O_RDWR | O_DIRECT : O_RDWR);
  }
  const script = 'i=0; while [ $i -lt 50 ]; do printf x 1<>"$0" && printf y 1<>"$1" || exit 1; i=$((i + 1)); done';
  expect(bench.run('sh', ['-c', script, disk(), part(1)])).toMatchObject({ code: 0, stderr: '' });
  expect(log()).not.toContain('cannot be opened');
});

describe('loop devices', () => {
  function losetup(...parameters: readonly string[]) {
    const { code, stdout, stderr } = bench.run('losetup', parameters);
    return { code, device: stdout.trim(), stderr };
  }

  it('on both names: one of them writes, the other is busy, and is not turned into a read-only one', () => {
    mount();
    for (const [one, other] of [
      [disk(), part(1)],
      [part(1), disk()],
      [part(1), part(3)],
    ] as const) {
      const first = losetup('--find', '--show', one);
      expect(first.code).toBe(0);
      // to a device that is named, because losetup goes on looking for a free one for 13 seconds
      const second = losetup(losetup('--find').device, other);
      expect(second.code).toBe(1);
      expect(second.stderr).toContain(BUSY);
      expect(losetup('--associated', other).device).toBe('');
      expect(log()).toMatch(
        /process \d+ opened it and has ended, and a loop device \(losetup -a\) or another process still has it/,
      );
      expect(losetup('--detach', first.device).code).toBe(0);
    }
  });

  it('one after the other: what the first wrote and synced the second reads, and both are coherent with the files', async () => {
    mount();
    for (const letter of 'abcdef') {
      const [mine, theirs] = letter.charCodeAt(0) % 2 === 0 ? [disk(), part(1)] : [part(1), disk()];
      const at = (path: string) => (path === disk() ? START + PAGE : PAGE);
      const { device } = losetup('--find', '--show', mine);
      writeLetter(device, at(mine), letter);
      expect(losetup('--detach', device).code).toBe(0);
      // the loop device lets go of its file a little later
      await until(() => losetup('--associated', mine).device === '', 'the loop device is gone');
      const second = losetup('--find', '--show', theirs);
      expect(second).toMatchObject({ code: 0, stderr: '' });
      expect(readLetter(second.device, at(theirs))).toBe(letter);
      expect(readLetter(theirs, at(theirs))).toBe(letter);
      losetup('--detach', second.device);
      await until(() => losetup('--associated', theirs).device === '', 'the loop device is gone');
    }
  });
});
