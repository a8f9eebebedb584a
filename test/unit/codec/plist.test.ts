// Property lists: each kind of value, and what is no property list.

import { describe, expect, test } from 'vitest';
import { DamagedData } from '../../../src/codec/damaged-data.ts';
import { arrayAt, dataAt, dictionaryAt, parsePlist } from '../../../src/codec/plist.ts';

const list = (value: string): Buffer =>
  Buffer.from(`<?xml version="1.0"?><!DOCTYPE plist PUBLIC "a" "b"><plist version="1.0">${value}</plist>`);

test('values of every kind come back', () => {
  const dict = `<dict>
    <key>text</key> <string>a &lt; b</string>
    <key>empty</key> <string/>
    <key>date</key> <date>2024-01-02T03:04:05Z</date>
    <key>numbers</key> <array> <integer> -17 </integer> <integer>0x1F</integer> <real>1.5e3</real> <real>-0.25</real> </array>
    <key>data</key> <data>
      AQID
      BA==
    </data>
    <key>none</key> <data/>
    <key>truths</key> <array><true/><false/></array>
    <key>dict</key> <dict><key></key><dict/></dict>
  </dict>`;
  expect(parsePlist(list(dict))).toEqual(
    new Map<string, unknown>([
      ['text', 'a < b'],
      ['empty', ''],
      ['date', '2024-01-02T03:04:05Z'],
      ['numbers', [-17, 31, 1500, -0.25]],
      ['data', Buffer.from([1, 2, 3, 4])],
      ['none', Buffer.alloc(0)],
      ['truths', [true, false]],
      ['dict', new Map([['', new Map()]])],
    ]),
  );
});

test('an entry of a dictionary is there in its kind, or not', () => {
  const entries = '<key>a</key><array/><key>b</key><dict/><key>c</key><data/><key>d</key><string/>';
  const value = parsePlist(list(`<dict>${entries}</dict>`));
  for (const [at, key] of [
    [arrayAt, 'a'],
    [dictionaryAt, 'b'],
    [dataAt, 'c'],
  ] as const) {
    expect(['a', 'b', 'c', 'd', 'e'].filter((each) => at(value, each) !== undefined)).toEqual([key]);
    expect(at('text', key)).toBe(undefined);
    expect(at(undefined, key)).toBe(undefined);
  }
});

describe('what is no property list is refused:', () => {
  test.each([
    [Buffer.from('<dict/>'), /has <dict> where <plist> is due/],
    [list(''), /has 0 values where one is due/],
    [list('<true/><true/>'), /has 2 values/],
    [list('<blob/>'), /has <blob> where a value is due/],
    [list('<key>a</key>'), /has <key> where a value is due/],
    [list('<dict><string/><string/></dict>'), /has <string> where <key> is due/],
    [list('<dict><key>a</key></dict>'), /the key "a" without a value/],
    [list('<dict><key>a</key><true/><key>a</key><true/></dict>'), /the key "a" twice/],
    [list('<data>A</data>'), /not base64/],
    [list('<data>AAA</data>'), /not base64/],
    [list('<data>AA=A</data>'), /not base64/],
    [list('<data>====</data>'), /not base64/],
    [list('<data>AA%A</data>'), /not base64/],
    [list('<integer/>'), /the integer "", which/],
    [list('<integer>1.5</integer>'), /the integer "1.5"/],
    [list('<integer>9007199254740992</integer>'), /the integer "9007199254740992"/],
    [list('<integer>9007199254740993000000000000</integer>'), /the integer/],
    [list('<real>one</real>'), /the real "one"/],
    [list('<real>.</real>'), /the real "."/],
    [Buffer.from('bplist00'), /has no </],
  ])('%s', (bytes, sentence) => {
    expect(() => parsePlist(bytes)).toThrow(DamagedData);
    expect(() => parsePlist(bytes)).toThrow(sentence);
  });
});
