// Which URLs are taken, and which lie below another one: the ground that the policy for backing files and redirects stands on.

import { describe, expect, test } from 'vitest';
import { folderOfUrl, isBelowUrl, isUrl, parseUrl } from '../../../../src/host/http/url.ts';

test.each([
  ['http://host/a', true],
  ['HTTPS://host/a', true],
  ['http:a', true],
  ['httpsx://host/a', false],
  ['./http://host', false],
  ['file:///a', false],
  ['base.qcow2', false],
])('%s is meant as a URL: %s', (name, expected) => {
  expect(isUrl(name)).toBe(expected);
});

describe('a URL is refused', () => {
  test.each([
    ['without //', 'http:host/a'],
    ['without a host', 'https://'],
    ['with a user name', 'https://user@host/a'],
    ['with a password', 'https://user:secret@host/a'],
    ['with a fragment', 'https://host/a#b'],
    ['with a line break, which the parser would drop', 'https://host/a\n/../b'],
    ['with a tab in its scheme', 'ht\ttps://host/a'],
    ['with a blank', 'https://host/a b'],
    ['of another scheme', 'ftp://host/a'],
    ['with a port that is none', 'https://host:99999/a'],
    ['that is longer than a name in an image', `https://host/${'a'.repeat(4096)}`],
  ])('%s', (_what, text) => {
    expect(() => parseUrl(text)).toThrow(/URL/);
  });

  test('and its password is not repeated', () => {
    expect(() => parseUrl('https://user:secret@host/a')).toThrow(expect.not.stringContaining('secret'));
  });
});

test('a URL at the limit of a name is taken', () => {
  const text = `https://host/${'a'.repeat(4095 - 'https://host/'.length)}`;
  expect(parseUrl(text).href).toBe(text);
});

describe('a URL lies at or below another', () => {
  test.each([
    ['https://host/a/b.qcow2', 'https://host/a/b.qcow2', true],
    ['https://host/a/b.qcow2', 'https://host/a/', true],
    ['https://host/a/b.qcow2', 'https://host/a', true],
    ['https://host/a/c/b.qcow2', 'https://host/a/', true],
    ['https://host/a/b.qcow2?token=1', 'https://host/a/', true],
    ['https://host/a/b.qcow2?token=1', 'https://host/a/b.qcow2', true],
    ['https://host/a/b.qcow2', 'https://host', true],
    ['https://HOST:443/a', 'https://host/', true],
    // not
    ['https://host/ab/c.qcow2', 'https://host/a', false],
    ['https://host/a/../b.qcow2', 'https://host/a/', false],
    ['https://host/a/%2e%2e/b.qcow2', 'https://host/a/', false],
    ['https://host/a/..%2fb.qcow2', 'https://host/a/', false],
    ['https://host/a/..%5Cb.qcow2', 'https://host/a/', false],
    ['http://host/a/b.qcow2', 'https://host/a/', false],
    ['https://host:444/a/b.qcow2', 'https://host/a/', false],
    ['https://host.evil/a/b.qcow2', 'https://host/a/', false],
    ['https://sub.host/a/b.qcow2', 'https://host/a/', false],
    ['https://host/a/b.qcow2?x', 'https://host/a/b.qcow2?y', false],
    ['https://host/a/c?y', 'https://host/a?y', false],
    ['https://host/', 'https://host/a', false],
  ])('%s and %s: %s', (url, place, expected) => {
    expect(isBelowUrl(new URL(url), new URL(place))).toBe(expected);
  });
});

test('the folder of a URL has neither its name nor its query', () => {
  expect(folderOfUrl(new URL('https://host/a/b.qcow2?token=1')).href).toBe('https://host/a/');
  expect(folderOfUrl(new URL('https://host')).href).toBe('https://host/');
});
