// An image in which everything is wrong: a check counts all of it and tells the first of it, so that neither memory nor a log
// fills up. A repair of QED tells every entry that it takes away, because nothing else keeps the old value.

import { describe, expect, test } from 'vitest';
import { hostOffset } from '../../../src/bytes/offsets.ts';
import { formatByName } from '../../../src/disk/registry.ts';
import { MAX_FINDINGS } from '../../../src/format/check-report.ts';
import type { WritableFormat } from '../../../src/format/image-format.ts';
import type { MemoryHostFile } from '../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../support/memory-images.ts';
import { CLUSTER, tableHeavy } from '../../support/table-heavy.ts';
import { BAT_GUID, guidBytes, MIB } from '../../support/vhdx-bytes.ts';
import { SECTOR } from '../../support/vmdk-bytes.ts';

/** of a table of a cluster; of the other formats as many blocks are damaged */
const WRONG = CLUSTER / 8;
/** No multiple of a cluster, in either byte order. */
const BLOCK = 4096;
const NO_CLUSTER = Buffer.from('0002020202020200', 'hex');

/** The formats of one table: the option for the size of a block, an entry that leads nowhere, and where copies of the table begin. */
const ONE_TABLE = {
  vdi: { option: 'block_size', block: BLOCK, entry: '02020202', tables: (image: Buffer) => [image.readUInt32LE(340)] },
  vpc: { option: 'block_size', block: BLOCK, entry: '02020202', tables: () => [1536] },
  parallels: { option: 'cluster_size', block: BLOCK, entry: '02020202', tables: () => [64] },
  vmdk: {
    ...{ option: 'grain_size', block: BLOCK, entry: '02020202' },
    // of both directories, whose tables lie side by side
    tables: (image: Buffer) =>
      [48, 56].map((at) => image.readUInt32LE(Number(image.readBigUInt64LE(at)) * SECTOR) * SECTOR),
  },
  vhdx: {
    ...{ option: 'block_size', block: MIB, entry: '0600202000000200' },
    tables: (image: Buffer) => [Number(image.readBigUInt64LE(image.indexOf(guidBytes(BAT_GUID)) + 16))],
  },
} as const;
const FORMATS = ['qed', 'qcow2', 'vdi', 'vpc', 'parallels', 'vmdk', 'vhdx'] as const;

/** An image whose only table has nothing but entries that lead nowhere. */
function damaged(format: (typeof FORMATS)[number]): MemoryHostFile {
  if (format !== 'qed' && format !== 'qcow2') {
    const { option, block, entry, tables } = ONE_TABLE[format];
    const plug = formatByName(format) as WritableFormat;
    const image = createMemoryImage(plug, WRONG * block, { [option]: String(block) });
    const wrong = Buffer.alloc((entry.length / 2) * WRONG, Buffer.from(entry, 'hex'));
    for (const table of tables(Buffer.from(image.bytes()))) image.write(wrong, 0, wrong.length, hostOffset(table));
    return image;
  }
  const file = tableHeavy(format, 1);
  file.write(Buffer.alloc(CLUSTER, NO_CLUSTER), 0, CLUSTER, hostOffset(file.size() - 2 * CLUSTER));
  return file;
}

describe.each(FORMATS)('a %s image in which every entry is wrong', (format) => {
  test('has all of it counted and the first of it told', () => {
    const told: string[] = [];
    const report = checkImage(formatByName(format), damaged(format), {
      repair: 'none',
      log: (finding) => told.push(finding),
    });
    expect(report.corruptions).toBeGreaterThanOrEqual(WRONG);
    expect(told.length).toBeLessThanOrEqual(MAX_FINDINGS + 2);
    expect(told).toContain('Further findings are counted and not printed');
  });

  test('is opened for writing, or refused, without filling a log', () => {
    const told: string[] = [];
    const log = (sentence: string) => void told.push(sentence);
    try {
      openImage(formatByName(format), damaged(format), { log }).close();
    } catch (error) {
      told.push((error as Error).message);
    }
    expect(told.join().length).toBeLessThan(200 * MAX_FINDINGS);
  });
});

describe('a QED image in which every entry is wrong', () => {
  test('has each told when check -r all takes it away', () => {
    const told: string[] = [];
    const log = (finding: string): void => void told.push(finding);
    const report = checkImage(formatByName('qed'), damaged('qed'), { repair: 'all', log });
    expect(report.corruptionsFixed).toBe(WRONG);
    expect(told.filter((finding) => /L2 entry \d+ .*0x2020202020200 /.test(finding))).toHaveLength(WRONG);
  });

  test('that was not closed clean does not fill the log of its mount', () => {
    const file = damaged('qed');
    file.write(Uint8Array.of(2), 0, 1, hostOffset(16));
    const told: string[] = [];
    openImage(formatByName('qed'), file, { log: (sentence) => told.push(sentence) }).close();
    expect(told.length).toBeGreaterThan(MAX_FINDINGS);
    expect(told.length).toBeLessThan(MAX_FINDINGS + 10);
  });
});
