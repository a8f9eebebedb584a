// createQcow2: what is refused is refused before a byte is written, nothing is an image before the last write, and a data
// file with content is never touched.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ImgfuseError } from '../../../../../src/errors/index.ts';
import type { CreateOptions } from '../../../../../src/format/image-format.ts';
import { createQcow2 } from '../../../../../src/format/qcow2/create/create.ts';
import { readHeader } from '../../../../../src/format/qcow2/header/read-header.ts';
import { MemoryHostFile } from '../../../../support/memory-file.ts';
import { FaultyHostFile, RecordingHostFile } from '../../../../support/wrapping-files.ts';

const MIB = 1024 * 1024;

function optionsOf(text: string): Map<string, string> {
  return new Map(
    text
      .split(',')
      .filter((pair) => pair !== '')
      .map((pair) => pair.split('=') as [string, string]),
  );
}

function created(text: string, size = MIB, more: Partial<CreateOptions> = {}): MemoryHostFile {
  const file = new MemoryHostFile();
  createQcow2(file, { size, options: optionsOf(text), ...more });
  return file;
}

function refusal(text: string, size = MIB, more: Partial<CreateOptions> = {}): string {
  const file = new RecordingHostFile(new MemoryHostFile());
  try {
    createQcow2(file, { size, options: optionsOf(text), ...more });
  } catch (error) {
    expect(error).toBeInstanceOf(ImgfuseError);
    expect(file.log).toEqual([]);
    return (error as ImgfuseError).message;
  }
  throw new Error(`${text} was accepted`);
}

const backing = { name: 'base.raw', format: 'raw' };

describe('an option', () => {
  test.each([
    ['cluster_size=256', 'cluster_size=256 is not valid'],
    ['cluster_size=4M', 'cluster_size=4194304 is not valid'],
    ['cluster_size=768', 'cluster_size=768 is not valid'],
    ['cluster_size=0', 'cluster_size=0 is not valid'],
    ['refcount_bits=0', 'refcount_bits=0 is not valid'],
    ['refcount_bits=3', 'refcount_bits=3 is not valid'],
    ['refcount_bits=128', 'refcount_bits=128 is not valid'],
    ['refcount_bits=x', 'refcount_bits=x is not valid'],
    ['compat=1.0', 'compat=1.0 is not valid; use 0.10'],
    ['lazy_refcounts=maybe', 'lazy_refcounts=maybe is not valid; use on or off'],
    ['compression_type=lzma', 'compression_type=lzma is not valid; use zlib, zstd'],
    ['preallocation=some', 'preallocation=some is not valid; use off, metadata, falloc, full'],
    ['extended_l2=on,cluster_size=8k', 'extended_l2=on needs cluster_size=16k'],
    ['compat=0.10,refcount_bits=8', 'refcount_bits=8 needs compat=1.1'],
    ['compat=0.10,lazy_refcounts=on', 'lazy_refcounts=on needs compat=1.1'],
    ['compat=v2,extended_l2=on', 'extended_l2=on needs compat=1.1'],
    ['compat=v2,compression_type=zstd', 'compression_type=zstd needs compat=1.1'],
    ['compat=v2,data_file=d', 'data_file needs compat=1.1'],
    ['data_file_raw=on', 'data_file_raw=on needs data_file=NAME'],
    ['backing_fmt=raw', 'without backing_file'],
    ['backing_file=b,preallocation=full', 'add extended_l2=on'],
    ['backing_file=b,data_file=d,data_file_raw=on', 'exclude each other'],
    ['data_file=d', 'cannot be created here'],
    ['cluster-size=4k', 'did you mean "cluster_size"?'],
    ['frob=1', "qcow2 has no option 'frob'; it has backing_file,"],
    ['cluster_size=big', 'cluster_size=big is not a size'],
    ['encryption=on', 'legacy AES encryption'],
    ['encrypt.format=aes', 'legacy AES encryption'],
    ['encrypt.format=luks', 'needs a password; give it with --key-file'],
    [
      'encrypt.format=luks,encrypt.key-secret=s0',
      'names an object of QEMU, which imgfuse does not have; give the password with --key-file',
    ],
    ['encrypt.format=rot13', 'use luks'],
    ['encrypt.hash-alg=sha256', 'without encrypt.format=luks'],
    ['encrypt.format=luks,encrypt.cipher-alg=serpent-256', 'use aes-128, aes-192, aes-256'],
    ['encrypt.format=luks,encrypt.cipher-mode=ecb', 'use xts, cbc'],
    ['encrypt.format=luks,encrypt.ivgen-alg=random', 'use plain, plain64, essiv'],
    ['encrypt.format=luks,encrypt.ivgen-hash-alg=sha256', 'belongs to encrypt.ivgen-alg=essiv'],
    ['encrypt.format=luks,encrypt.hash-alg=crc32', 'use md5'],
    ['encrypt.format=luks,encrypt.iter-time=soon', 'give milliseconds'],
    ['encrypt.format=luks,preallocation=falloc', 'would read as noise'],
    ['encrypt.format=luks,data_file=d,data_file_raw=on', 'exclude each other'],
  ])('%s is refused before a byte is written', (text, words) => {
    expect(refusal(text)).toContain(words);
  });

  test('that switches off what is off anyway is accepted', () => {
    expect(created('encryption=off,lazy_refcounts=off,extended_l2=no,compat=v3').size()).toBe(4 * 65536);
  });

  test.each([
    ['a backing name of 1024 bytes', '', { backing: { ...backing, name: 'b'.repeat(1024) } }, 'from 1 to 1023'],
    ['an empty backing name', '', { backing: { ...backing, name: '' } }, 'has 0 bytes'],
    ['a NUL in the backing name', '', { backing: { ...backing, name: 'a\0' } }, 'no NUL'],
    ['a format name of 16 bytes', '', { backing: { name: 'b', format: 'f'.repeat(16) } }, 'from 1 to 15'],
    [
      'a name that fills a small cluster',
      'cluster_size=512',
      { backing: { name: 'b'.repeat(393) } },
      'use larger clusters',
    ],
  ])('%s is refused before a byte is written', (_, text, more, words) => {
    expect(refusal(text, MIB, more)).toContain(words);
  });

  test('names of the largest lengths are stored', () => {
    const file = created('', MIB, { backing: { name: 'b'.repeat(1023), format: 'f'.repeat(15) } });
    expect(readHeader(file, { readOnly: false })).toMatchObject({
      backingName: 'b'.repeat(1023),
      backingFormat: 'f'.repeat(15),
    });
  });
});

describe('the size', () => {
  test('may be what an L1 table of 32 MiB maps, and not a sector more', () => {
    expect(readHeader(created('cluster_size=512', 2 ** 37), { readOnly: false }).l1Size).toBe(4194304);
    expect(refusal('cluster_size=512', 2 ** 37 + 512)).toContain('its L1 table maps at most 137438953472 bytes');
  });

  test('of a preallocated image is bounded by a refcount table of 8 MiB', () => {
    expect(refusal('cluster_size=512,refcount_bits=64,preallocation=metadata', 2 ** 36)).toContain(
      'its refcount table',
    );
  });

  test('of a preallocated image keeps host offsets inside 53 bits', () => {
    expect(refusal('cluster_size=2M,preallocation=metadata', 2 ** 53 - 512)).toContain('the file would exceed');
  });
});

describe('the fields of a new image', () => {
  test('follow from the options, and the file is as long as its clusters', () => {
    const options = fc.record({
      bits: fc.integer({ min: 9, max: 21 }),
      order: fc.integer({ min: 0, max: 6 }),
      size: fc.integer({ min: 0, max: 4 * MIB }),
      zstd: fc.boolean(),
      lazy: fc.boolean(),
      extended: fc.boolean(),
    });
    fc.assert(
      fc.property(options, ({ bits, order, size, zstd, lazy, extended }) => {
        const extendedL2 = extended && bits >= 14;
        const file = created(
          `cluster_size=${2 ** bits},refcount_bits=${2 ** order},compression_type=${zstd ? 'zstd' : 'zlib'},` +
            `lazy_refcounts=${lazy ? 'on' : 'off'},extended_l2=${extendedL2 ? 'on' : 'off'}`,
          size,
        );
        const header = readHeader(file, { readOnly: false });
        expect(header).toMatchObject({
          version: 3,
          clusterBits: bits,
          refcountOrder: order,
          size: Math.ceil(size / 512) * 512,
          compressionType: zstd ? 'zstd' : 'zlib',
          lazyRefcounts: lazy,
          extendedL2,
          isDirty: false,
        });
        expect(file.size() % 2 ** bits).toBe(0);
      }),
    );
  });
});

describe('the order of the writes', () => {
  test.each([
    '',
    'preallocation=metadata',
    'preallocation=full,cluster_size=512',
  ])('puts the header last, alone between two flushes, with -o %s', (text) => {
    const file = new RecordingHostFile(new MemoryHostFile());
    createQcow2(file, { size: MIB, options: optionsOf(text) });
    const { log } = file;
    expect(log.slice(-3).map(({ operation, offset }) => `${operation} ${offset}`)).toEqual([
      'sync 0',
      'write 0',
      'sync 0',
    ]);
    const clusterSize = log.at(-2)!.length;
    const earlier = log.slice(0, -3).filter(({ operation }) => operation === 'write');
    expect(earlier.length).toBeGreaterThan(1);
    expect(earlier.every(({ offset }) => offset >= clusterSize)).toBe(true);
  });

  test('leaves no image behind whichever operation fails', () => {
    let position = 0;
    for (; position < 100; position++) {
      const inner = new MemoryHostFile();
      const file = new FaultyHostFile(inner, (_, count) => (count === position ? 28 : null));
      let failed = false;
      try {
        createQcow2(file, { size: MIB, options: optionsOf('preallocation=metadata') });
      } catch (error) {
        failed = true;
        expect((error as ImgfuseError).kind).toBe('no-space');
      }
      if (!failed) break;
      // the last flush fails after the header was written: its caller removes the file
      const isImage = inner.size() >= 4 && inner.bytes()[0] !== 0;
      if (isImage) expect(file.operations).toBe(position + 1);
    }
    expect(position).toBeGreaterThan(6);
    expect(position).toBeLessThan(20);
  });
});

describe('a data file', () => {
  test('gets the size of the disk and is flushed before the header is written', () => {
    const log: string[] = [];
    const inner = new MemoryHostFile();
    const data = new RecordingHostFile(inner);
    const file = new RecordingHostFile(new MemoryHostFile());
    createQcow2(file, {
      size: 1000000,
      options: optionsOf('data_file=d.raw,data_file_raw=on'),
      createExtent: (name) => {
        log.push(name);
        return data;
      },
    });
    expect(log).toEqual(['d.raw']);
    expect(inner.size()).toBe(1000448);
    expect(data.log.at(-1)!.operation).toBe('sync');
  });

  test('with content is refused, and neither file is changed', () => {
    const data = new RecordingHostFile(new MemoryHostFile(Uint8Array.of(1, 2, 3), '/images/d.raw'));
    const message = refusal('data_file=d.raw', MIB, { createExtent: () => data });
    expect(message).toContain('the data file /images/d.raw has content');
    expect(data.log).toEqual([]);
  });
});
