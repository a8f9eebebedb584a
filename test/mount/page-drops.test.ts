// A write through pages of the kernel that the server has not acted on yet, while another file is opened and read: whoever reads
// after the write has returned sees it. The kernel marks the page as true before it sends the WRITE, so a page that an opening drops
// is filled again with what the disk still has, and stays.

import { closeSync, constants, mkdirSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { type MountServer, type ServedFilesystem, startServer, unmountBelow } from '../support/mount-server.ts';
import { mbrSector } from '../support/partition-bytes.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';
import { ToldProgram } from '../support/told-program.ts';

const { O_DIRECT, O_RDONLY, O_RDWR, O_TRUNC } = constants;
const MiB = 1024 * 1024;
const PAGE = 4096;
const AT = 2 * MiB;

/** Numbers of io_setup(2), io_submit(2) and io_getevents(2). */
const AIO_CALLS: Partial<Record<string, readonly number[]>> = { x64: [206, 209, 208], arm64: [0, 2, 4] };

/** Does what it is told on its standard input: open FLAGS PATH, read, write BYTE, submit BYTE and finish (an asynchronous write), close. */
const PROGRAM = `
import ctypes, mmap, os, struct, sys
setup, submit, getevents = ${JSON.stringify(AIO_CALLS[process.arch] ?? [-1, -1, -1])}
syscall = ctypes.CDLL(None, use_errno=True).syscall
events = ctypes.c_ulong(0)
kept = mmap.mmap(-1, ${PAGE})
for line in sys.stdin:
    words = line.split()
    area = mmap.mmap(-1, ${PAGE})
    if words[0] == 'open': file = os.open(words[2], int(words[1])); answer = 'ok'
    elif words[0] == 'read':
        count = os.preadv(file, [area], ${AT})
        answer = ''.join(sorted(set(area[:count].decode('latin1')))) or 'the end'
    elif words[0] == 'write': answer = str(os.pwrite(file, words[1].encode() * ${PAGE}, ${AT}))
    elif words[0] == 'submit':
        kept[:] = words[1].encode() * ${PAGE}
        address = ctypes.addressof(ctypes.c_char.from_buffer(kept))
        block = ctypes.create_string_buffer(struct.pack('=QIIHhIQQqQII', 0, 0, 0, 1, 0, file, address, ${PAGE}, ${AT}, 0, 0, 0))
        syscall(setup, 1, ctypes.byref(events))
        answer = str(syscall(submit, events, 1, ctypes.byref(ctypes.c_void_p(ctypes.addressof(block)))))
    elif words[0] == 'finish':
        event = ctypes.create_string_buffer(32)
        syscall(getevents, events, 1, 1, event, None)
        answer = str(struct.unpack('=QQqq', event.raw)[2])
    elif words[0] == 'close': os.close(file); answer = 'ok'
    print(answer, flush=True)
`;

let folder: string;
let server: MountServer;
let programs: ToldProgram[];
beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot() && hasCommand('python3'), 'root, /dev/fuse and python3');
  folder = makeTemporaryDirectory();
  programs = [];
});
afterEach(async () => {
  await server?.holdWrites(false).catch(() => undefined);
  for (const program of programs) await program.end();
  await server?.cleanup();
  unmountBelow(folder);
  removeTemporaryDirectory(folder);
});

function start(): ToldProgram {
  const program = new ToldProgram(PROGRAM);
  programs.push(program);
  return program;
}

/** A disk full of 'a' at AT, whose pages count as untrue because it was written through its partition since they were filled. */
async function mountUntrue(filesystem: ServedFilesystem): Promise<void> {
  const mountpoint = join(folder, 'mnt');
  mkdirSync(mountpoint);
  server = await startServer(filesystem, { folder, mountpoint, size: 16 * MiB, transport: 'kernel', workers: 4 });
  const disk = openSync(server.diskPath, O_RDWR);
  writeSync(disk, Buffer.alloc(PAGE, 'a'), 0, PAGE, AT);
  writeSync(disk, mbrSector([{ type: 0x83, start: 2048, size: 4096 }]), 0, 512, 0);
  closeSync(disk);
  closeSync(openSync(join(mountpoint, 'partitions/1.raw'), O_RDWR));
}

it.each([
  ['raw', 'to read', O_RDONLY],
  ['qcow2', 'to write', O_RDWR],
  ['raw', 'past the pages', O_RDWR | O_DIRECT],
] as const)('a second opening of a %s disk, %s, drops no page that is being written', async (filesystem, _how, flags) => {
  await mountUntrue(filesystem);
  const [writer, reader, opener] = [start(), start(), start()] as const;
  expect(await writer.do(`open ${O_RDWR} ${server.diskPath}`)).toBe('ok');
  expect(await reader.do(`open ${O_RDONLY} ${server.diskPath}`)).toBe('ok');
  expect(await reader.do('read')).toBe('a');
  await server.holdWrites(true);
  const written = writer.do('write b');
  await vi.waitFor(async () => expect(await server.heldWrites()).toBe(1));
  expect(await opener.do(`open ${flags} ${server.diskPath}`)).toBe('ok');
  // either is right: the write has not returned
  expect('ab').toContain(await reader.do('read'));
  expect(await server.heldWrites()).toBe(1);
  await server.holdWrites(false);
  expect(await written).toBe(String(PAGE));
  expect(await reader.do('read')).toBe('b');
  expect(await opener.do('read')).toBe('b');
});

it('an opening with O_TRUNC drops the pages again when the write has ended', async () => {
  await mountUntrue('raw');
  const [writer, reader, opener] = [start(), start(), start()] as const;
  expect(await writer.do(`open ${O_RDWR} ${server.diskPath}`)).toBe('ok');
  expect(await reader.do(`open ${O_RDONLY} ${server.diskPath}`)).toBe('ok');
  await server.holdWrites(true);
  const written = writer.do('write b');
  await vi.waitFor(async () => expect(await server.heldWrites()).toBe(1));
  const { OPEN: before = 0 } = await server.counters();
  const opened = opener.do(`open ${O_RDWR | O_TRUNC} ${server.diskPath}`);
  await vi.waitFor(async () => expect((await server.counters())['OPEN']).toBe(before + 1));
  // the kernel waits for the write with the second half of the opening; until then the file may even seem to be empty
  await reader.do('read');
  await server.holdWrites(false);
  expect([await written, await opened]).toEqual([String(PAGE), 'ok']);
  expect(await reader.do('read')).toBe('b');
});

it.each([
  'an open file',
  'a file that was closed',
])('an asynchronous direct write leaves no old page to %s', async (which) => {
  if (AIO_CALLS[process.arch] === undefined) return;
  await mountUntrue('raw');
  const [writer, reader] = [start(), start()] as const;
  expect(await writer.do(`open ${O_RDWR | O_DIRECT} ${server.diskPath}`)).toBe('ok');
  expect(await reader.do(`open ${O_RDONLY} ${server.diskPath}`)).toBe('ok');
  await server.holdWrites(true);
  expect(await writer.do('submit b')).toBe('1');
  await vi.waitFor(async () => expect(await server.heldWrites()).toBe(1));
  expect(await reader.do('read'), 'the page is filled').toBe('a');
  if (which !== 'an open file') expect(await reader.do('close')).toBe('ok');
  const releases = async () => (await server.counters())['RELEASE'] ?? 0;
  if (which !== 'an open file') await vi.waitFor(async () => expect(await releases()).toBe(3));
  await server.holdWrites(false);
  expect(await writer.do('finish')).toBe(String(PAGE));
  if (which !== 'an open file') expect(await reader.do(`open ${O_RDONLY} ${server.diskPath}`)).toBe('ok');
  expect(await reader.do('read')).toBe('b');
});
