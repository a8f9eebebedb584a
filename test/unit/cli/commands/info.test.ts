// What info prints, against the words and keys of qemu-img.

import { describe, expect, it } from 'vitest';
import { infoJson, infoLines } from '../../../../src/cli/commands/info.ts';
import { snapshotJson, snapshotLines } from '../../../../src/cli/commands/info-snapshots.ts';
import { jsonPieces } from '../../../../src/cli/output.ts';

describe('info', () => {
  const info = {
    filename: 'a',
    format: 'qed',
    virtualSize: 10485760,
    clusterSize: 65536,
    actualSize: 593920,
    dirty: true,
    backingFilename: 'b',
    fullBackingFilename: '/x/b',
    specific: {},
    snapshots: [],
  };
  it('prints the lines of qemu-img', () => {
    expect(infoLines('a.qed', info)).toEqual([
      'image: a.qed',
      'file format: qed',
      'virtual size: 10 MiB (10485760 bytes)',
      'disk size: 580 KiB',
      'cleanly shut down: no',
      'cluster_size: 65536',
      'backing file: b (actual path: /x/b)',
    ]);
  });
  it('has the keys of qemu-img', () => {
    expect(infoJson('a.qed', info)).toMatchObject({
      'virtual-size': 10485760,
      'actual-size': 593920,
      'backing-filename': 'b',
      'full-backing-filename': '/x/b',
      'dirty-flag': true,
    });
    expect(infoJson('a.qed', info)['encrypted']).toBeUndefined();
  });
  it('says that an image is encrypted, and how, further in', () => {
    const encrypted = { ...info, dirty: false, specific: { encrypt: { format: 'luks', slots: [{ active: true }] } } };
    expect(infoJson('a', encrypted)['encrypted']).toBe(true);
    const lines = infoLines('a', encrypted);
    expect(lines).toContain('encrypted: yes');
    expect(lines.slice(lines.indexOf('    encrypt:'))).toEqual([
      '    encrypt:',
      '        format: luks',
      '        slots:',
      '            [0]:',
      '                active: true',
    ]);
  });
});

it('the JSON of a snapshot has the keys of qemu-img, exact', () => {
  const snapshot = {
    ...{ id: '1', name: 'x', vmStateSize: '9007199254740993', dateSeconds: 1, dateNanoseconds: 2 },
    ...{ vmClockSeconds: 18446744073, vmClockNanoseconds: 709551615, icount: '9007199254740995' },
  };
  const text = [...jsonPieces(snapshotJson(snapshot), '')].join('').replace(/\s/g, '');
  expect(text).toContain('"icount":9007199254740995,"vm-clock-nsec":709551615');
  expect(text).toContain('"vm-clock-sec":18446744073');
  expect(text).toContain('"vm-state-size":9007199254740993');
  expect(snapshotJson({ ...snapshot, icount: null })).not.toHaveProperty('icount');
  expect(snapshotLines([snapshot])[1]).toMatch(/ 5124095:34:33\.709 9007199254740995$/);
});
