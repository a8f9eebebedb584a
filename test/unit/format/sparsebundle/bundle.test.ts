// What the Info.plist of a sparsebundle says, each limit with the value just outside, and the token of an encrypted one.

import { describe, expect, test } from 'vitest';
import { ImgfuseError } from '../../../../src/errors/index.ts';
import type { OpenOptions } from '../../../../src/format/image-format.ts';
import { sparsebundle } from '../../../../src/format/sparsebundle/index.ts';
import { type BundleSpec, bundleImage, infoPlist } from '../../../support/bundle-bytes.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';

function refusal(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof ImgfuseError) return `${error.kind}: ${error.message}`;
    throw error;
  }
  return 'none';
}

const fileOf = (bytes: Uint8Array): MemoryHostFile => new MemoryHostFile(bytes, '/b/Info.plist');

describe('an Info.plist', () => {
  test.each<[string, BundleSpec, string]>([
    [
      'another type',
      { type: 'com.apple.x' },
      'corrupt: /b/Info.plist: this list of a sparsebundle is of the type "com.apple.x"',
    ],
    [
      'another version',
      { version: '<integer>2</integer>' },
      'unsupported: /b/Info.plist: the sparsebundle has version 2',
    ],
    [
      'a version that is text',
      { version: '<string>1</string>' },
      'unsupported: /b/Info.plist: the sparsebundle has version "1"',
    ],
    ['bands of no bytes', { band: '<integer>0</integer>' }, 'has 0 at band-size'],
    ['bands of half sectors', { band: '<integer>4352</integer>' }, 'has 4352 at band-size'],
    ['negative bands', { band: '<integer>-4096</integer>' }, 'has -4096 at band-size'],
    ['bands that are too large', { band: '<integer>8589935104</integer>' }, 'has 8589935104 at band-size'],
    ['bands that are text', { band: '<string>4096</string>' }, 'has "4096" at band-size'],
    ['a size of half sectors', { size: '<integer>100</integer>' }, 'has 100 at size'],
    ['a size behind the limit', { size: '<integer>9007199254740991</integer>' }, 'has 9007199254740991 at size'],
    [
      'a size that is no safe number',
      { size: '<integer>9007199254740993</integer>' },
      'has the integer "9007199254740993"',
    ],
    ['a size that is infinite', { size: '<real>1e999</real>' }, 'has '],
  ])('with %s is refused', (_, spec, sentence) => {
    expect(refusal(() => sparsebundle.inspect(fileOf(infoPlist(spec))))).toContain(sentence);
  });

  test('that is no dictionary, is too long, or defines entities, is refused', () => {
    const text = infoPlist({}).toString();
    const variants: [string, string][] = [
      [text.replace(/<dict>.*<\/dict>/s, '<array/>'), 'has no dictionary'],
      [text.replace('<dict>', `<!--${'x'.repeat(1024 * 1024)}--><dict>`), 'the limit is 1048576'],
      [text.replace('1.0.dtd">', '1.0.dtd" [<!ENTITY a "b">]>'), 'defines a document type'],
      [text.slice(0, 300), 'ends inside'],
    ];
    for (const [bytes, sentence] of variants)
      expect(refusal(() => sparsebundle.inspect(fileOf(Buffer.from(bytes))))).toContain(sentence);
  });

  test('says what hdiutil wrote', () => {
    const spec = { band: '<integer>8388608</integer>', size: '<integer>10737418240</integer>' };
    expect(sparsebundle.inspect(fileOf(infoPlist(spec)))).toMatchObject({
      ...{ format: 'sparsebundle', virtualSize: 10_737_418_240, clusterSize: 8_388_608, dirty: false },
    });
  });
});

describe('the token', () => {
  const { image } = bundleImage();
  const opener =
    (token: Uint8Array | ImgfuseError): NonNullable<OpenOptions['openExtent']> =>
    (name) => {
      if (name !== 'token') return new MemoryHostFile();
      if (token instanceof Error) throw token;
      return new MemoryHostFile(token);
    };

  test.each(['encrcdsa', 'cdsaencr'])('that begins with %s says that the bundle is encrypted', (magic) => {
    const token = Buffer.from(`${magic} and more`);
    const sentence = 'unsupported: /b/Info.plist: this sparsebundle is encrypted';
    expect(refusal(() => sparsebundle.inspect(fileOf(image), undefined, opener(token)))).toContain(sentence);
  });

  test('may be empty or missing, and any other error of it counts', () => {
    for (const token of [Buffer.alloc(0), Buffer.from('encrcds'), new ImgfuseError('missing', 'no token')])
      expect(refusal(() => sparsebundle.inspect(fileOf(image), undefined, opener(token)))).toBe('none');
    const io = new ImgfuseError('io', 'broken');
    expect(refusal(() => sparsebundle.inspect(fileOf(image), undefined, opener(io)))).toBe('io: broken');
  });
});
