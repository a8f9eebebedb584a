// PosixHostFile: the position guard, transfers to the last byte, holes, and the sentences of its errors. MemoryHostFile, which
// stands in for it in other tests, must behave the same under random operations.

import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { hostOffset } from '../../../src/bytes/offsets.ts';
import { offerProcessorWith } from '../../../src/concurrency/turns.ts';
import { ImgfuseError } from '../../../src/errors/index.ts';
import { type HostFile, readPadded } from '../../../src/host/host-file.ts';
import { PosixHostFile } from '../../../src/host/posix-file.ts';
import { nativeAvailable } from '../../../src/native/index.ts';
import { MemoryHostFile } from '../../support/memory-file.ts';
import { hasCommand, requireOrSkip } from '../../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

let folder: string;
let path: string;

beforeAll(() => {
  folder = makeTemporaryDirectory();
  path = join(folder, 'file');
});
afterAll(() => removeTemporaryDirectory(folder));

function withFile<T>(content: Uint8Array, action: (file: PosixHostFile) => T, readOnly = false): T {
  writeFileSync(path, content);
  const file = PosixHostFile.open(path, readOnly);
  try {
    return action(file);
  } finally {
    file.close();
  }
}

function errorOf(action: () => unknown): ImgfuseError {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(ImgfuseError);
    return error as ImgfuseError;
  }
  throw new Error('nothing was thrown');
}

const at = (offset: unknown) => offset as ReturnType<typeof hostOffset>;

describe.each(['posix', 'memory'] as const)('the position guard (%s)', (kind) => {
  const bad: readonly unknown[] = [
    -1,
    -5,
    1.5,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    Number.NEGATIVE_INFINITY,
    2 ** 53,
    5n,
    -1n,
    '5',
    null,
    undefined,
  ];

  test.each(bad)('offset %s reaches no call, and the file stays as it is', (offset) => {
    const content = new Uint8Array(100).fill(7);
    const check = (file: HostFile, bytes: () => Uint8Array) => {
      const buffer = new Uint8Array(10);
      for (const action of [
        () => file.read(buffer, 0, 10, at(offset)),
        () => file.write(buffer, 0, 10, at(offset)),
        () => file.write(buffer, 0, 0, at(offset)),
        () => file.punchHole(at(offset), 10),
        () => file.zeroRange(at(offset), 10),
        () => file.allocateRange(at(offset), 10),
        () => file.truncate(offset as number),
      ]) {
        expect(errorOf(action).kind).toBe('usage');
      }
      for (const length of [-1, 1.5, Number.NaN, 2 ** 53]) {
        expect(errorOf(() => file.write(buffer, 0, length, hostOffset(0))).kind).toBe('usage');
      }
      expect(bytes()).toEqual(content);
    };
    if (kind === 'posix') withFile(content, (file) => check(file, () => new Uint8Array(readFileSync(path))));
    else {
      const file = new MemoryHostFile(content);
      check(file, () => file.bytes());
    }
  });
});

test('an offset is used whatever the position of the descriptor is', () => {
  withFile(new Uint8Array(10), (file) => {
    file.write(Uint8Array.of(1, 2, 3), 1, 2, hostOffset(5));
    expect([...readFileSync(path)]).toEqual([0, 0, 0, 0, 0, 2, 3, 0, 0, 0]);
  });
});

test('a read beyond the end is short, and readPadded fills it with zeros', () => {
  withFile(Uint8Array.of(1, 2, 3), (file) => {
    const target = new Uint8Array(6).fill(9);
    expect(file.read(target, 1, 5, hostOffset(1))).toBe(2);
    expect([...target]).toEqual([9, 2, 3, 9, 9, 9]);
    expect(file.read(target, 0, 5, hostOffset(100))).toBe(0);
    readPadded(file, target, 1, 4, hostOffset(2));
    expect([...target]).toEqual([9, 3, 0, 0, 0, 9]);
  });
});

test('a write that the host cuts short says how many bytes arrived', () => {
  // the size limit of files makes the kernel write a part, and then refuse with EFBIG
  const script = `
    import { PosixHostFile } from ${JSON.stringify(new URL('../../../dist/host/posix-file.js', import.meta.url).href)};
    process.on('SIGXFSZ', () => {});
    const file = PosixHostFile.open(process.argv[1], false);
    try { file.write(new Uint8Array(8192).fill(1), 0, 8192, 0); }
    catch (error) { console.log(JSON.stringify({ kind: error.kind, context: error.context, size: file.size() })); }`;
  writeFileSync(path, '');
  const output = execFileSync(
    'sh',
    ['-c', 'ulimit -f 8 && exec "$@"', 'sh', process.execPath, '--input-type=module', '-e', script, path],
    { encoding: 'utf8' },
  );
  const { kind, context, size } = JSON.parse(output) as {
    kind: string;
    context: { transferred: number; offset: number };
    size: number;
  };
  expect(kind).toBe('limit');
  expect(context.transferred).toBe(size);
  expect(context.offset).toBe(size);
  expect(size).toBeGreaterThan(0);
});

describe('a host that is full', () => {
  test('is named with the file when space for a range is asked for', (context) => {
    requireOrSkip(context, nativeAvailable() && process.getuid?.() === 0, 'koffi and root, for a mount');
    const small = join(folder, 'full');
    mkdirSync(small);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1M', 'tmpfs', small]);
    try {
      const file = PosixHostFile.create(join(small, 'a.raw'), false);
      const error = errorOf(() => file.allocateRange(hostOffset(4096), 8 * 1024 * 1024));
      file.close();
      expect(error.kind).toBe('no-space');
      expect(error.context).toMatchObject({ path: join(small, 'a.raw'), offset: 4096 });
      expect(error.message).toBe(`${join(small, 'a.raw')} cannot grow: the host file system is full at offset 0x1000`);
    } finally {
      execFileSync('umount', [small]);
    }
  });
});

describe('holes', () => {
  const MIB = 1024 * 1024;

  test('are punched although the host has no ZERO_RANGE, as a tmpfs', (context) => {
    requireOrSkip(context, nativeAvailable() && process.getuid?.() === 0, 'native calls and root');
    const small = join(folder, 'small');
    mkdirSync(small);
    execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', small]);
    try {
      writeFileSync(join(small, 'file'), new Uint8Array(1_048_576).fill(7));
      const file = PosixHostFile.open(join(small, 'file'), false);
      try {
        file.zeroRange(hostOffset(0), 4096);
        file.punchHole(hostOffset(4096), 1_044_480);
        expect(file.allocatedBytes()).toBeLessThanOrEqual(4096);
        const bytes = new Uint8Array(1_048_576);
        readPadded(file, bytes, 0, bytes.length, hostOffset(0));
        expect(bytes.every((byte) => byte === 0)).toBe(true);
      } finally {
        file.close();
      }
    } finally {
      execFileSync('umount', [small]);
    }
  });

  test.for([
    ['tmpfs', true],
    ['ramfs', false],
  ] as const)('of a %s are punched or written, which is known before a byte changes', ([type, isPunched], context) => {
    requireOrSkip(context, nativeAvailable() && process.getuid?.() === 0, 'native calls and root');
    const place = join(folder, type);
    mkdirSync(place);
    execFileSync('mount', ['-t', type, type, place]);
    try {
      for (const size of [0, 5000, 2 ** 41]) {
        const name = join(place, String(size));
        writeFileSync(name, 'x');
        truncateSync(name, size);
        const { blocks } = statSync(name);
        for (const readOnly of [false, true]) {
          const file = PosixHostFile.open(name, readOnly);
          expect(file.punchesHoles()).toBe(isPunched && !readOnly);
          file.close();
        }
        expect(statSync(name)).toMatchObject({ size, blocks });
      }
    } finally {
      execFileSync('umount', [place]);
    }
  });

  test('are punched: the range reads as zeros, the length stays, the host gets its space back', (context) => {
    requireOrSkip(context, nativeAvailable(), 'the package koffi');
    withFile(new Uint8Array(MIB).fill(5), (file) => {
      file.sync();
      const before = file.allocatedBytes();
      file.punchHole(hostOffset(65_536), 524_288);
      const bytes = readFileSync(path);
      expect(bytes.length).toBe(MIB);
      expect(bytes.subarray(65_536, 65_536 + 524_288).every((byte) => byte === 0)).toBe(true);
      expect([bytes[65_535], bytes[65_536 + 524_288]]).toEqual([5, 5]);
      expect(file.allocatedBytes()).toBeLessThanOrEqual(before - 400_000);
      expect([file.seekHole(hostOffset(0)), file.seekData(hostOffset(65_536))]).toEqual([65_536, 589_824]);
    });
  });

  test('are punched in pieces, between which others run', (context) => {
    requireOrSkip(context, nativeAvailable(), 'the package koffi');
    withFile(new Uint8Array(MIB).fill(5), (file) => {
      let offers = 0;
      offerProcessorWith(() => offers++);
      try {
        file.truncate(1024 * MIB);
        file.write(new Uint8Array(MIB).fill(5), 0, MIB, hostOffset(1023 * MIB));
        file.punchHole(hostOffset(4096), 1023 * MIB);
      } finally {
        offerProcessorWith(null);
      }
      expect(offers).toBeGreaterThan(0);
      expect(file.seekData(hostOffset(4096))).toBe(1023 * MIB + 4096);
    });
  });

  test('do not change the length where they reach beyond the end', () => {
    withFile(new Uint8Array(5000).fill(5), (file) => {
      file.punchHole(hostOffset(4000), 100_000);
      file.zeroRange(hostOffset(3000), 100_000);
      file.punchHole(hostOffset(50_000), 1);
      expect(file.size()).toBe(5000);
      expect(readFileSync(path).subarray(2999, 3001)).toEqual(Buffer.of(5, 0));
    });
  });

  test('are found to the end: no data after it is the length of the file', (context) => {
    requireOrSkip(context, nativeAvailable(), 'the package koffi');
    withFile(new Uint8Array(0), (file) => {
      file.truncate(MIB);
      expect([file.seekData(hostOffset(0)), file.seekHole(hostOffset(0))]).toEqual([MIB, 0]);
      expect([file.seekData(hostOffset(2 * MIB)), file.seekHole(hostOffset(2 * MIB))]).toEqual([MIB, MIB]);
    });
  });

  test('are filled by allocateRange, which grows the file and changes no byte', (context) => {
    requireOrSkip(context, nativeAvailable(), 'the package koffi');
    withFile(Uint8Array.of(1), (file) => {
      file.allocateRange(hostOffset(0), MIB);
      expect(file.size()).toBe(MIB);
      expect(file.allocatedBytes()).toBeGreaterThanOrEqual(MIB);
      expect(readFileSync(path)[0]).toBe(1);
    });
  });
});

describe('opening', () => {
  test('names the file and the reason: missing, a directory, a FIFO, an existing file that is to be created', () => {
    const missing = errorOf(() => PosixHostFile.open(join(folder, 'none'), true));
    expect([missing.kind, missing.message.includes(join(folder, 'none'))]).toEqual(['missing', true]);
    mkdirSync(join(folder, 'dir'));
    execFileSync('mkfifo', [join(folder, 'fifo')]);
    for (const readOnly of [true, false]) {
      expect(errorOf(() => PosixHostFile.open(join(folder, 'dir'), readOnly)).kind).toBe('usage');
      expect(errorOf(() => PosixHostFile.open(join(folder, 'fifo'), readOnly)).kind).toBe('usage');
    }
    writeFileSync(path, 'abc');
    expect(errorOf(() => PosixHostFile.create(path, false)).kind).toBe('usage');
    const inNone = errorOf(() => PosixHostFile.create(join(folder, 'none', 'a'), false));
    expect(inNone.message).toBe(`${folder}/none/a cannot be made: ${folder}/none does not exist`);
    const inFile = errorOf(() => PosixHostFile.create(join(path, 'a'), false));
    expect(inFile.message).toBe(`${path}/a cannot be made: ${path} is no directory`);
    expect(readFileSync(path, 'utf8')).toBe('abc');
  });

  test('creates with mode 0600', () => {
    const created = join(folder, 'created');
    PosixHostFile.create(created, false).close();
    expect(statSync(created).mode & 0o777).toBe(0o600);
  });

  test('read-only cannot write', () => {
    withFile(
      new Uint8Array(10),
      (file) => expect(() => file.write(new Uint8Array(1), 0, 1, hostOffset(0))).toThrow(path),
      true,
    );
  });
});

test('a file in memory behaves as one on the host under random operations', () => {
  const offset = fc.oneof(
    fc.nat(20_000),
    fc.nat(5).map((page) => page * 4096),
  );
  const length = fc.oneof(fc.nat(9000), fc.constantFrom(0, 1, 4096));
  const operation = fc.record({
    kind: fc.constantFrom('write', 'write', 'punch', 'zero', 'truncate', 'allocate', 'read'),
    offset,
    length,
    byte: fc.integer({ min: 1, max: 255 }),
  });
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 15 }), (operations) => {
      withFile(new Uint8Array(0), (posix) => {
        const memory = new MemoryHostFile();
        for (const step of operations) {
          const results = [posix, memory].map((file: HostFile) => {
            const position = hostOffset(step.offset);
            const bytes = new Uint8Array(step.length).fill(step.byte);
            if (step.kind === 'write') file.write(bytes, 0, step.length, position);
            else if (step.kind === 'punch') file.punchHole(position, step.length);
            else if (step.kind === 'zero') file.zeroRange(position, step.length);
            else if (step.kind === 'truncate') file.truncate(step.offset);
            else if (step.kind === 'allocate' && step.length > 0) file.allocateRange(position, step.length);
            else if (step.kind === 'read') return [file.read(bytes, 0, step.length, position), ...bytes.slice(0, 50)];
            return [file.size()];
          });
          expect(results[1]).toEqual(results[0]);
        }
        expect(Buffer.compare(readFileSync(path), memory.bytes())).toBe(0);
      });
    }),
    { numRuns: 150 },
  );
});

test('a socket and a circle of links are told as what they are', async () => {
  const [socket, circle] = [join(folder, 'socket'), join(folder, 'circle')];
  const server = createServer().listen(socket);
  await once(server, 'listening');
  symlinkSync('circle', circle);
  expect(() => PosixHostFile.open(socket, true)).toThrow(`${socket} is no regular file and no block device`);
  expect(() => PosixHostFile.open(circle, true)).toThrow(`${circle} leads to no file: its symbolic links go round`);
  server.close();
});

test('a read-only file system is told, and what can be done there', (context) => {
  requireOrSkip(context, process.geteuid?.() === 0, 'root');
  const place = join(folder, 'read-only');
  mkdirSync(place);
  writeFileSync(join(place, 'disk'), Buffer.alloc(512));
  execFileSync('mount', ['--bind', place, place]);
  try {
    execFileSync('mount', ['-o', 'remount,bind,ro', place]);
    expect(() => PosixHostFile.open(join(place, 'disk'), false)).toThrow(/cannot be changed; mount -o ro reads it/);
    expect(() => PosixHostFile.create(join(place, 'new'), false)).toThrow(
      /new cannot be made: the file system of .* is read-only/,
    );
    PosixHostFile.open(join(place, 'disk'), true).close();
  } finally {
    execFileSync('umount', [place]);
  }
});

test('ranges of a block device become zeros wherever its blocks begin', { timeout: 30_000 }, (context) => {
  requireOrSkip(context, process.geteuid?.() === 0 && hasCommand('losetup'), 'root and losetup');
  const length = 64 * 1024;
  const content = new Uint8Array(length).fill(7);
  writeFileSync(path, content);
  const device = execFileSync('losetup', ['--find', '--show', '--sector-size', '4096', path], {
    encoding: 'utf8',
  }).trim();
  const file = PosixHostFile.open(device, false);
  try {
    expect(() => PosixHostFile.openRegular(device, false)).toThrow(`${device} is no regular file, so it cannot be`);
    const expected = content.slice();
    const ranges = [
      [0, 4096],
      [5000, 100],
      [8192 + 512, 512],
      [12_288 - 1, 4098],
      [20_480 + 1, 3 * 4096],
      [length - 513, 1024],
    ] as const;
    for (const [n, [offset, size]] of ranges.entries()) {
      if (n % 2 === 0) file.punchHole(hostOffset(offset), size);
      else file.zeroRange(hostOffset(offset), size);
      expected.fill(0, offset, offset + size);
      const got = new Uint8Array(length);
      file.read(got, 0, length, hostOffset(0));
      expect(Buffer.compare(got, expected), `after ${size} bytes at ${offset}`).toBe(0);
    }
  } finally {
    file.close();
    execFileSync('losetup', ['--detach', device]);
  }
});
