// The scripts themselves: the same one gives the same order every time, and a failpoint stops, fails and counts.

import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { createDisk, openDisk, type VirtualDisk } from '../../src/disk/index.ts';
import { Script } from '../support/script.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const CLUSTER = 65536;
/** VHDX has no smaller blocks. */
const LARGE_CLUSTER = 1024 * 1024;
/** Options of new images whose clusters are no 64 KiB without them. */
const OPTIONS: Readonly<Record<string, readonly [string, string][]>> = {
  vdi: [['block_size', '64k']],
  vmdk: [['grain_size', '64k']],
  vpc: [['block_size', '64k']],
  parallels: [['cluster_size', '64k']],
  vhdx: [['block_size', '1M']],
};

/** By how many threads they have: a thread takes longer to start than to run a script. */
const scripts = new Map<number, Promise<Script>>();

let folder: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
});
afterEach(() => removeTemporaryDirectory(folder));
afterAll(async () => {
  for (const script of scripts.values()) await (await script).end();
});

function scriptOf(count: number): Promise<Script> {
  const script = scripts.get(count) ?? Script.start(count);
  scripts.set(count, script);
  return script;
}

function clusterOf(format: string): number {
  return format === 'vhdx' ? LARGE_CLUSTER : CLUSTER;
}

async function withThreads(
  format: string,
  count: number,
  action: (script: Script, disk: VirtualDisk) => Promise<void>,
  hasFailed = false,
): Promise<void> {
  const path = join(folder, `disk.${Math.random()}.${format}`);
  createDisk(path, format, { size: 128 * clusterOf(format), options: new Map(OPTIONS[format]) });
  const disk = openDisk(path, { readOnly: false, slots: count + 1 });
  const script = await scriptOf(count);
  await script.attach(disk);
  await action(script, disk);
  if (hasFailed) expect(() => disk.close()).toThrow(/could not be closed clean/);
  else disk.close();
}

describe.each(['qed', 'qcow2', 'vdi', 'vmdk', 'vpc', 'parallels', 'vhdx'])('a script on a %s image', (format) => {
  const cluster = clusterOf(format);

  // the order is that of the script; what a format does between two steps shows with few threads, too
  test.each(format in OPTIONS ? [2] : [2, 5, 8])('gives the same order every time, on %i threads', {
    timeout: 60_000,
  }, async (count) => {
    const orders = new Set<string>();
    for (let run = 0; run < 4; run++) {
      await withThreads(format, count, async (script) => {
        for (let thread = 1; thread <= count; thread++) {
          const at = thread * cluster;
          await script.beginAndStop(thread, { kind: 'write', at, length: 512, value: thread }, 'data-write');
        }
        for (let thread = count; thread >= 1; thread--) expect((await script.finish(thread)).error).toBeNull();
        for (let thread = 1; thread <= count; thread++) {
          await script.run(thread, { kind: 'discard', at: ((thread % count) + 1) * cluster, length: cluster });
          await script.run(thread, { kind: 'flush' });
        }
        orders.add(script.log().join('\n'));
      });
    }
    expect(orders.size).toBe(1);
    expect([...orders][0]!.split('\n').length).toBeGreaterThan(count * 4);
  });

  test('fails a step once or always, and counts how often it was reached', async () => {
    await withThreads(format, 1, async (script, disk) => {
      const write = { kind: 'write', at: 0, length: 512, value: 7 } as const;
      const reached = script.count(1, 'data-write');
      script.failAt(1, 'cluster-allocate', 'ENOSPC', 'once');
      expect((await script.run(1, write)).error).toMatch(/cluster-allocate fails by script/);
      expect((await script.run(1, write)).error).toBeNull();
      script.failAt(1, 'data-write', 'EIO', 'always');
      for (let i = 0; i < 3; i++) expect((await script.run(1, write)).error).toMatch(/data-write fails by script/);
      script.disarm(1);
      expect((await script.run(1, write)).error).toBeNull();
      // the bitmap of a new block of a VHD is one more
      expect(script.count(1, 'data-write') - reached).toBe(format === 'vpc' ? 6 : 5);
      const bytes = new Uint8Array(1);
      disk.read(bytes, 0, 1, guestOffset(0));
      expect(bytes[0]).toBe(7);
    });
  });

  test('a metadata step that fails turns the disk read-only, unless the host is full', async () => {
    await withThreads(
      format,
      1,
      async (script) => {
        const write = (index: number, length = 512) => ({
          ...{ kind: 'write' as const, value: 7 },
          at: index * cluster,
          length,
        });
        const step = format === 'qcow2' ? 'refcount-update' : 'l2-update';
        script.failAt(1, step, 'ENOSPC', 'once');
        expect((await script.run(1, write(1))).error).toMatch(/fails by script/);
        expect((await script.run(1, write(1))).error).toBeNull();
        script.failAt(1, step, 'EIO', 'once');
        // more than qcow2 counts ahead
        expect((await script.run(1, write(2, 100 * cluster))).error).toMatch(/fails by script/);
        expect((await script.run(1, write(120))).error).toMatch(/read-only/);
      },
      true,
    );
  });
});
