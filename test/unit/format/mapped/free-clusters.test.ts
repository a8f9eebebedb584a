// The state machine of freed clusters: against a naive model, only clusters that two flushes have passed are handed out.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { hostCluster } from '../../../../src/bytes/offsets.ts';
import { Mutex } from '../../../../src/concurrency/mutex.ts';
import {
  CLUSTERS_PER_HOLD,
  type ClusterRun,
  createFreeClustersState,
  FreeClusters,
  trackedClusters,
} from '../../../../src/format/mapped/free-clusters.ts';
import { Settling } from '../../../../src/format/mapped/settling.ts';

const CLUSTERS = 60;
const ROOM = 2 ** 24;

function mutex(): Mutex {
  return new Mutex(new Int32Array(new SharedArrayBuffer(4)), 0);
}

type Step =
  | { readonly kind: 'free' | 'take' | 'takeExactly'; readonly start: number; readonly count: number }
  | { readonly kind: 'flush' | 'failedPunch' | 'cutTail' };

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    kind: fc.constantFrom('free' as const, 'free' as const, 'take' as const, 'takeExactly' as const),
    start: fc.nat(CLUSTERS - 1),
    count: fc.integer({ min: 1, max: 6 }),
  }),
  fc.record({ kind: fc.constantFrom('flush' as const, 'flush' as const, 'failedPunch' as const, 'cutTail' as const) }),
);

test('only clusters whose removal and whose hole are durable are handed out, and counts are right', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const free = new FreeClusters(createFreeClustersState(4096, ROOM));
      const settling = new Settling(free, mutex());
      /** fdatasyncs that each unused cluster has seen since it was freed, and the holes since */
      const state: ('used' | 'freed' | 'settling' | 'free')[] = Array.from({ length: CLUSTERS }, () => 'used');
      let punchDone = false;
      const count = (wanted: string) => state.filter((each) => each === wanted).length;
      for (const each of steps) {
        switch (each.kind) {
          case 'free': {
            let end = each.start;
            while (end < Math.min(CLUSTERS, each.start + each.count) && state[end] === 'used') end++;
            free.markFreed(hostCluster(each.start), end - each.start);
            state.fill('freed', each.start, end);
            break;
          }
          case 'take':
          case 'takeExactly': {
            const exactly = each.kind === 'takeExactly';
            const run = free.take(each.count, exactly);
            if (run === null) {
              const longest = state
                .map((s) => (s === 'free' ? 'F' : '.'))
                .join('')
                .split('.')
                .reduce((a, b) => Math.max(a, b.length), 0);
              expect(longest).toBeLessThan(exactly ? each.count : 1);
              break;
            }
            expect(state.slice(run.start, run.end).every((s) => s === 'free')).toBe(true);
            expect(run.end - run.start).toBeLessThanOrEqual(each.count);
            if (exactly) expect(run.end - run.start).toBe(each.count);
            state.fill('used', run.start, run.end);
            break;
          }
          case 'flush':
          case 'failedPunch': {
            const phase = settling.begin();
            if (phase === 'none') {
              expect(count('freed') + count('settling')).toBe(0);
              break;
            }
            if (phase === 'hole-durable-next') {
              expect(punchDone).toBe(true);
              settling.settled();
              for (let i = 0; i < CLUSTERS; i++) if (state[i] === 'settling') state[i] = 'free';
              punchDone = false;
              break;
            }
            for (let i = 0; i < CLUSTERS; i++) if (state[i] === 'freed' && !punchDone) state[i] = 'settling';
            const isFailing = each.kind === 'failedPunch';
            const punch = ({ start, end }: ClusterRun) => {
              expect(state.slice(start, end).every((s) => s === 'settling')).toBe(true);
              if (isFailing) throw new Error('no hole');
            };
            if (isFailing && count('settling') > 0) {
              expect(() => settling.punch(punch)).toThrow('no hole');
              for (let i = 0; i < CLUSTERS; i++) if (state[i] === 'settling') state[i] = 'freed';
            } else {
              settling.punch(punch);
              punchDone = true;
            }
            break;
          }
          case 'cutTail': {
            const end = free.cutTail(CLUSTERS);
            let wanted = CLUSTERS;
            while (wanted > 0 && state[wanted - 1] === 'free') wanted--;
            expect(end).toBe(wanted);
            state.fill('used', wanted);
          }
        }
        expect([free.freeCount, free.unsettledCount]).toEqual([count('free'), count('freed') + count('settling')]);
        expect(free.unusedCount).toBe(CLUSTERS - count('used'));
      }
    }),
    { numRuns: 300 },
  );
});

describe('free clusters', () => {
  test('cannot be freed twice', () => {
    const free = new FreeClusters(createFreeClustersState(4096, ROOM));
    free.markFreed(hostCluster(3), 2);
    expect(() => free.markFreed(hostCluster(4), 1)).toThrow('two entries');
  });

  test('may lie beyond the length that the file had when it was opened', () => {
    const free = new FreeClusters(createFreeClustersState(4096, ROOM));
    free.markFreed(hostCluster(5000), 3);
    const settling = new Settling(free, mutex());
    settling.begin();
    settling.punch(() => undefined);
    settling.begin();
    settling.settled();
    expect(free.take(9, false)).toEqual({ start: 5000, end: 5003 });
  });

  test('are one state for every object over it', () => {
    const state = createFreeClustersState(4096, ROOM);
    const [one, other] = [new FreeClusters(state), new FreeClusters(state)];
    one.markFreed(hostCluster(20), 1);
    expect(other.unsettledCount).toBe(1);
    expect(() => other.markFreed(hostCluster(20), 1)).toThrow('two entries');
  });
});

test('clusters beyond the capacity are never handed out, and an image that is only read has none', () => {
  const state = createFreeClustersState(4096, 10);
  const free = new FreeClusters(state);
  free.markFree(hostCluster(8), 5);
  expect(free.take(5, false)).toEqual({ start: 8, end: 10 });
  expect(free.take(1, false)).toBe(null);
  const none = new FreeClusters(createFreeClustersState(4096, 0));
  none.markFree(hostCluster(0), 5);
  expect(none.take(1, false)).toBe(null);
});

test('the capacity covers an image filled to its end twice over, and grows with nothing else', () => {
  const MIB = 2 ** 20;
  expect(trackedClusters(65536, 2 ** 30, 2 ** 36)).toBe(16 * MIB);
  expect(trackedClusters(65536, 2 ** 41, 2 ** 42)).toBe(2 * (32 + 64) * MIB);
  expect(trackedClusters(512, 2 ** 40, 2 ** 40)).toBe(512 * MIB);
  // one of hundreds of files, of which only the last one grows
  expect(trackedClusters(65536, 2 ** 20, 2 ** 31, false)).toBe(2 * (16 + 32_768));
});

test('millions of freed clusters settle in short holds of the lock, between which others free and take clusters', () => {
  const count = 40 * CLUSTERS_PER_HOLD;
  const free = new FreeClusters(createFreeClustersState(4096, count + 10));
  const lock = mutex();
  const settling = new Settling(free, lock);
  let holds = 0;
  const { run } = lock;
  lock.run = (action) => {
    holds++;
    const done = run.call(lock, action);
    // behind where the flush is by now, and ahead of it
    if (holds === 10) free.markFreed(hostCluster(0), 1);
    if (holds === 11) free.markFreed(hostCluster(count + 5), 1);
    return done as never;
  };
  // every second one of the first half, all of the second
  for (let cluster = 2; cluster < count / 2; cluster += 2) free.markFreed(hostCluster(cluster), 1);
  free.markFreed(hostCluster(count / 2), count / 2);
  const freed = count / 4 - 1 + count / 2;
  expect(settling.begin()).toBe('removal-durable-next');
  expect(holds).toBeGreaterThan(30);
  let punched = 0;
  settling.punch(({ start, end }) => {
    punched += end - start;
  });
  expect(punched).toBe(freed + 1);
  expect(settling.begin()).toBe('hole-durable-next');
  settling.settled();
  expect([free.freeCount, free.unsettledCount]).toEqual([freed + 1, 1]);
  let left: number = count;
  for (let before = left + 1; left < before; ) {
    before = left;
    left = free.cutTail(left);
  }
  expect(left).toBe(count / 2);
  expect(free.take(2, false)).toEqual({ start: 2, end: 3 });
});
