// The state machine of freed clusters: against a naive model, only clusters that two flushes have passed are handed out.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { hostCluster } from '../../../../src/bytes/offsets.ts';
import { createFreeClustersState, FreeClusters, trackedClusters } from '../../../../src/format/mapped/free-clusters.ts';

const CLUSTERS = 60;
const ROOM = 2 ** 24;

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
            const phase = free.beginFlush();
            if (phase === 'none') {
              expect(count('freed') + count('settling')).toBe(0);
              break;
            }
            if (phase === 'hole-durable-next') {
              expect(punchDone).toBe(true);
              free.settled();
              for (let i = 0; i < CLUSTERS; i++) if (state[i] === 'settling') state[i] = 'free';
              punchDone = false;
              break;
            }
            for (let i = 0; i < CLUSTERS; i++) if (state[i] === 'freed' && !punchDone) state[i] = 'settling';
            for (const run of free.settlingRuns()) {
              expect(state.slice(run.start, run.end).every((s) => s === 'settling')).toBe(true);
            }
            if (each.kind === 'failedPunch') {
              free.punchFailed();
              for (let i = 0; i < CLUSTERS; i++) if (state[i] === 'settling') state[i] = 'freed';
            } else {
              free.punched();
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
    expect(() => free.markFreed(hostCluster(4), 1)).toThrow('twice');
  });

  test('may lie beyond the length that the file had when it was opened', () => {
    const free = new FreeClusters(createFreeClustersState(4096, ROOM));
    free.markFreed(hostCluster(5000), 3);
    free.beginFlush();
    free.punched();
    free.beginFlush();
    free.settled();
    expect(free.take(9, false)).toEqual({ start: 5000, end: 5003 });
  });

  test('are one state for every object over it', () => {
    const state = createFreeClustersState(4096, ROOM);
    const [one, other] = [new FreeClusters(state), new FreeClusters(state)];
    one.markFreed(hostCluster(20), 1);
    expect(other.unsettledCount).toBe(1);
    expect(() => other.markFreed(hostCluster(20), 1)).toThrow('twice');
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
});
