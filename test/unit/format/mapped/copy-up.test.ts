// A copy from the backing file that comes after a shrink, as the disk's size may change between two pieces of it.

import { expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { qcow2 } from '../../../../src/format/qcow2/index.ts';
import { qed } from '../../../../src/format/qed/index.ts';
import { raw } from '../../../../src/format/raw/index.ts';
import { vdi } from '../../../../src/format/vdi/index.ts';
import { vmdk } from '../../../../src/format/vmdk/index.ts';
import { vpc } from '../../../../src/format/vpc/index.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { RecordingHostFile } from '../../../support/wrapping-files.ts';

const MIB = 1024 * 1024;

test.each([
  { format: qed, unit: 'cluster_size' },
  { format: qcow2, unit: 'cluster_size' },
  { format: vdi, unit: 'block_size' },
  { format: vpc, unit: 'block_size' },
  { format: vmdk, unit: 'grain_size' },
])('of $format.name copies nothing that lies behind the end of the disk', ({ format, unit }) => {
  const backing = openImage(raw, new MemoryHostFile(new Uint8Array(4 * MIB).fill(7), '/base'));
  const file = createMemoryImage(format, 4 * MIB, { [unit]: '64k' }, '/base');
  const recording = new RecordingHostFile(file);
  const image = openImage(format, recording, { backing });
  image.resize(MIB);
  const before = recording.log.length;
  image.copyUp(guestOffset(MIB), 3 * MIB);
  expect(recording.log.slice(before)).toEqual([]);
  image.copyUp(guestOffset(0), 4 * MIB);
  expect(image.allocatedBytes()).toBe(MIB);
  image.close();
});
