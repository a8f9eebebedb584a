// A repair is believed only when the tables read back true: a host file that answers one write of a repair and does not do
// it must leave the image marked, and refused.

import { describe, expect, it } from 'vitest';
import { guestOffset, type HostOffset } from '../../../src/bytes/offsets.ts';
import type { CheckReport } from '../../../src/format/check-report.ts';
import type { WritableFormat } from '../../../src/format/image-format.ts';
import { qcow2 } from '../../../src/format/qcow2/index.ts';
import { qed } from '../../../src/format/qed/index.ts';
import { vdi } from '../../../src/format/vdi/index.ts';
import { vpc } from '../../../src/format/vpc/index.ts';
import { MemoryHostFile } from '../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../support/memory-images.ts';
import { plainParallels } from '../../support/plain-parallels.ts';
import { FREE, vdiBytes } from '../../support/vdi-bytes.ts';

/** Does not do the write that covers `victim`, and answers as if it had. */
class ForgetfulFile extends MemoryHostFile {
  forgotten = 0;
  private readonly victim: number;

  constructor(content: Uint8Array, victim: number) {
    super(content);
    this.victim = victim;
  }

  override write(source: Uint8Array, sourceOffset: number, length: number, offset: HostOffset): void {
    if (offset <= this.victim && this.victim < offset + length) {
      this.forgotten++;
      return;
    }
    super.write(source, sourceOffset, length, offset);
  }
}

/** An image with one cluster of data, marked as not closed clean, whose entry for the next cluster leads out of the file. */
function damagedQed(): { content: Uint8Array; victim: number } {
  const content = withData(qed, {});
  const view = new DataView(content.buffer);
  const l2 = Number(view.getBigUint64(Number(view.getBigUint64(40, true)), true));
  view.setBigUint64(l2 + 8, 1n << 40n, true);
  view.setUint32(16, view.getUint32(16, true) | 2, true);
  return { content, victim: l2 + 8 };
}

/** The same for qcow2: the counter of the data cluster is 0. */
function damagedQcow2(): { content: Uint8Array; victim: number } {
  const content = withData(qcow2, {});
  const view = new DataView(content.buffer);
  const l2 = Number(view.getBigUint64(Number(view.getBigUint64(40)))) % 2 ** 56;
  const host = Number(view.getBigUint64(l2) & 0x00fffffffffffe00n);
  const block = Number(view.getBigUint64(Number(view.getBigUint64(48))));
  const victim = block + (host / 65536) * 2;
  view.setUint16(victim, 0);
  view.setUint32(76, view.getUint32(76) | 1);
  return { content, victim };
}

function withData(format: WritableFormat, options: Readonly<Record<string, string>>): Uint8Array {
  const file = createMemoryImage(format, 4 * 1024 * 1024, options);
  const image = openImage(format, file);
  image.write(new Uint8Array(65536).fill(7), 0, 65536, guestOffset(0));
  image.close();
  return file.bytes();
}

function twoEntriesOfOneBlock(format: WritableFormat, table: number): Uint8Array {
  const content = withData(format, {});
  content.copyWithin(table + 4, table, table + 4);
  return content;
}

const CASES = [
  { format: qed, damaged: damagedQed, isMarked: (bytes: Uint8Array) => (bytes[16]! & 2) !== 0 },
  { format: qcow2, damaged: damagedQcow2, isMarked: (bytes: Uint8Array) => (bytes[79]! & 1) !== 0 },
];

/** Two entries that lead to one block. These formats have no mark that an open goes by. */
describe.each([
  {
    format: vdi,
    content: vdiBytes({ entries: [0, 0, FREE], diskSize: 12 * 1024 }),
    victim: 512 + 4,
  },
  {
    format: vpc,
    content: twoEntriesOfOneBlock(vpc, 1536),
    victim: 1536 + 4,
  },
  {
    format: plainParallels,
    content: twoEntriesOfOneBlock(plainParallels, 64),
    victim: 64 + 4,
  },
])('$format.name on a host that forgets a write of the repair', ({ format, content, victim }) => {
  it('is repaired when the host keeps everything', () => {
    const report = checkImage(format, new MemoryHostFile(content), { repair: 'all', log: () => undefined });
    expect(report).toMatchObject({ corruptions: 1, corruptionsFixed: 1, checkErrors: 0 });
  });

  it('is not reported repaired', () => {
    const file = new ForgetfulFile(content, victim);
    const said: string[] = [];
    const report = checkImage(format, file, { repair: 'all', log: (sentence) => said.push(sentence) });
    expect(file.forgotten).toBeGreaterThan(0);
    expect(report.checkErrors).toBeGreaterThan(0);
    expect(said.join('\n')).toContain('left after the repair');
  });
});

describe.each(CASES)('$format.name on a host that forgets a write of the repair', ({ format, damaged, isMarked }) => {
  it('is repaired and opened when the host keeps everything', () => {
    const { content } = damaged();
    const file = new MemoryHostFile(content);
    openImage(format, file).close();
    expect(isMarked(file.bytes())).toBe(false);
  });

  it('is refused for writing and stays marked', () => {
    const { content, victim } = damaged();
    const file = new ForgetfulFile(content, victim);
    expect(() => openImage(format, file)).toThrow(expect.objectContaining({ kind: 'corrupt' }));
    expect(file.forgotten).toBeGreaterThan(0);
    expect(isMarked(file.bytes())).toBe(true);
  });

  it.each([true, false])('is not reported repaired by a check, marked: %s', (marked) => {
    const { content, victim } = damaged();
    if (!marked) content[format.name === 'qed' ? 16 : 79]! &= format.name === 'qed' ? ~2 : ~1;
    const file = new ForgetfulFile(content, victim);
    const said: string[] = [];
    const report: CheckReport = checkImage(format, file, { repair: 'all', log: (sentence) => said.push(sentence) });
    expect(file.forgotten).toBeGreaterThan(0);
    expect(report.checkErrors).toBeGreaterThan(0);
    expect(said.join('\n')).toContain('left after the repair');
    expect(isMarked(file.bytes())).toBe(marked);
  });
});
