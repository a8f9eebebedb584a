// When the threads of a mount that serve beside the first one are wanted: as the first thread sees it, and as the main thread does.

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { BacklogChannel } from '../../../../src/daemon/workers/backlog-channel.ts';
import { BacklogWatch } from '../../../../src/daemon/workers/backlog-watch.ts';

const BYTES = new Uint8Array(100);

describe('the first thread', () => {
  /** @param waits whether a request waits, look by look; the last one stays @returns at which requests it looked, and called out */
  function run(requests: number, waits: readonly boolean[]): { looks: number[]; calls: number[] } {
    const looks: number[] = [];
    const calls: number[] = [];
    let request = 0;
    const channel = new BacklogChannel(
      { receive: () => 40, send: () => true },
      () => {
        looks.push(request);
        return waits[looks.length - 1] ?? waits.at(-1)!;
      },
      () => calls.push(request),
      () => 0,
    );
    for (request = 1; request <= requests; request++) expect(channel.receive(BYTES)).toBe(40);
    return { looks, calls };
  }

  test('calls for the others when a request waits behind three in a row, and once', () => {
    expect(run(1000, [true])).toEqual({ looks: [16, 17, 18], calls: [18] });
  });

  test('does not call for them while requests come one at a time', () => {
    const { looks, calls } = run(1600, [false]);
    expect(calls).toEqual([]);
    expect(looks).toHaveLength(100);
  });

  test('does not call for them because a file was closed', () => {
    expect(run(60, [true, true, false])).toEqual({ looks: [16, 17, 18, 34, 50], calls: [] });
  });

  /** @param longOnes which requests take 1 ms instead of 0.1 @returns at which requests it found one waiting, and called out */
  function runSlow(requests: number, longOnes: readonly number[]): { looks: number[]; calls: number[] } {
    const looks: number[] = [];
    const calls: number[] = [];
    let now = 0;
    let request = 0;
    const receive = (): number => {
      // nothing to do for long is nothing that takes long
      now += 50;
      return 40;
    };
    const channel = new BacklogChannel(
      { receive, send: () => true },
      () => {
        const waits = longOnes.includes(request);
        if (waits) looks.push(request);
        return waits;
      },
      () => calls.push(request),
      () => now,
    );
    for (request = 1; request <= requests; request++) {
      channel.receive(BYTES);
      now += longOnes.includes(request) ? 1 : 0.1;
      channel.send(BYTES, 16);
    }
    return { looks, calls };
  }

  test('calls for the others when requests have waited behind three long ones, and once', () => {
    expect(runSlow(512, [259, 300, 401, 403])).toEqual({ looks: [259, 300, 401], calls: [401] });
    expect(runSlow(512, [259, 300])).toEqual({ looks: [259, 300], calls: [] });
  });

  test('does not call for them because the first requests are slow, or a request has waited now and then', () => {
    expect(runSlow(256, [1, 2, 5, 100, 200]).calls).toEqual([]);
    expect(runSlow(4000, [301, 401, 602, 702, 1001, 1101, 3001, 3201]).calls).toEqual([]);
  });
});

describe('the main thread', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  function watch(): { state: { inHand: number | null; waits: boolean }; stuck: () => number; end: () => void } {
    const state: { inHand: number | null; waits: boolean } = { inHand: null, waits: false };
    const stuck = vi.fn();
    const watched = new BacklogWatch({ inHand: () => state.inHand, isWaiting: () => state.waits, stuck });
    return { state, stuck: () => stuck.mock.calls.length, end: () => watched.stop() };
  }

  test('calls for the others when a request waits for one that is in hand for long, and once', () => {
    const { state, stuck } = watch();
    Object.assign(state, { inHand: 7, waits: true });
    vi.advanceTimersByTime(100);
    expect(stuck()).toBe(0);
    vi.advanceTimersByTime(1000);
    expect(stuck()).toBe(1);
    expect(vi.getTimerCount()).toBe(0);
  });

  test.each([
    ['nothing is in hand', null, true, 0],
    ['nobody waits', 7, false, 0],
    ['it is another one each time', 7, true, 1],
  ])('does not while %s', (_why, inHand, waits, step) => {
    const { state, stuck, end } = watch();
    Object.assign(state, { inHand, waits });
    for (let look = 0; look < 20; look++) {
      vi.advanceTimersByTime(100);
      if (state.inHand !== null) state.inHand += step;
    }
    expect(stuck()).toBe(0);
    end();
    expect(vi.getTimerCount()).toBe(0);
  });
});
