// The waiting room with a made-up server: which requests it tries, in which order, and what it answers when it gives up.

import { spawn } from 'node:child_process';
import { afterEach, describe, expect, test } from 'vitest';
import { HELD_KIB_MAX } from '../../../../src/daemon/workers/held-words.ts';
import { Gate } from '../../../../src/daemon/workers/request-gate.ts';
import { ServingWords } from '../../../../src/daemon/workers/serving-words.ts';
import { type HeldRequest, WaitingRoom } from '../../../../src/daemon/workers/waiting-room.ts';
import { isDying } from '../../../../src/host/processes.ts';

const ENOSPC = 28;
const EINTR = 4;
const CHANNEL = { receive: () => 0, send: () => true };

/** A room whose server succeeds for messages that begin with a number below `space`. */
function roomOf(limitMs?: number) {
  const words = ServingWords.create(2);
  words.held.openRoom();
  const tried: number[] = [];
  const refused: [number, number][] = [];
  const state = { space: 0 };
  const server = {
    repeat: (message: Uint8Array) => {
      tried.push(message[0]!);
      return message[0]! < state.space;
    },
    refuse: (message: Uint8Array, _channel: unknown, errno: number) => void refused.push([message[0]!, errno]),
  };
  const room = new WaitingRoom({ server, words, gate: new Gate(words, 2), limitMs });
  const take = (first: number, more: Partial<HeldRequest> = {}): void => {
    const message = new Uint8Array(5000).fill(first);
    expect(words.held.enter(message.length)).toBe(true);
    room.take({ message, channel: CHANNEL, requester: 0, sinceMs: 0, file: '/a', ...more });
  };
  return { room, words, tried, refused, state, take };
}

describe('a round', () => {
  test('tries requests in their order, and leaves those alone that wait for the same file as one that failed', () => {
    const { room, words, tried, take, state } = roomOf();
    for (const first of [1, 2, 3]) take(first);
    take(0, { file: '/b' });
    expect(room.round(0)).toBeNull();
    expect(tried).toEqual([1, 0]);
    expect(words.held.requests).toBe(4);
    state.space = 3;
    expect(room.round(0)).toEqual({ done: 3, refused: 0, dropped: 0 });
    expect(tried.slice(2)).toEqual([1, 2, 3, 0]);
    expect(words.held.requests).toBe(1);
    expect(words.hasRequestsInHand).toBe(false);
  });

  test('after it was told to give up tries once more, and refuses the rest with ENOSPC', () => {
    const { room, words, refused, take, state } = roomOf();
    state.space = 2;
    for (const first of [1, 2, 3]) take(first);
    words.held.giveUp();
    expect(room.round(0)).toEqual({ done: 1, refused: 2, dropped: 0 });
    expect(refused).toEqual([
      [2, ENOSPC],
      [3, ENOSPC],
    ]);
    expect([room.isEmpty, words.held.requests]).toEqual([true, 0]);
  });

  test('after the stop does not touch the disk', () => {
    const { room, words, tried, refused, take, state } = roomOf();
    state.space = 9;
    take(1);
    words.stop();
    expect(room.round(0)).toEqual({ done: 0, refused: 1, dropped: 0 });
    expect([tried, refused]).toEqual([[], [[1, ENOSPC]]]);
  });

  test('refuses what is older than the kernel allows', () => {
    const { room, refused, take } = roomOf(1000);
    take(1, { sinceMs: 500 });
    take(2, { sinceMs: 501 });
    expect(room.round(1500)).toBeNull();
    expect(room.round(1501)).toEqual({ done: 0, refused: 1, dropped: 0 });
    expect(refused).toEqual([[1, ENOSPC]]);
  });

  test('lets a request of a dying thread go, and no other one', () => {
    const { room, refused, take } = roomOf();
    // this thread lives; a number that no thread has says nothing
    take(1, { requester: process.pid });
    take(2, { requester: 2 ** 22 + 1 });
    expect(room.round(0)).toBeNull();
    expect([isDying(process.pid), isDying(2 ** 22 + 1)]).toEqual([false, false]);
    expect(refused).toEqual([]);
  });
});

describe('a thread that ends', () => {
  const children: ReturnType<typeof spawn>[] = [];
  afterEach(() => {
    for (const child of children.splice(0)) child.kill('SIGKILL');
  });

  test('is dying once it is a zombie, and not while it sleeps or has a signal that it handles', async () => {
    const child = spawn(
      process.execPath,
      ['-e', 'process.on("SIGUSR2",()=>{});setInterval(()=>{},1000);console.log(1)'],
      {
        stdio: ['ignore', 'pipe', 'ignore'],
      },
    );
    children.push(child);
    await new Promise((resolve) => child.stdout!.once('data', resolve));
    expect(isDying(child.pid!)).toBe(false);
    child.kill('SIGSTOP');
    child.kill('SIGUSR2');
    expect(isDying(child.pid!)).toBe(false);
    child.kill('SIGKILL');
    // the event loop has not collected it yet
    const end = performance.now() + 5000;
    while (!isDying(child.pid!) && performance.now() < end);
    expect(isDying(child.pid!)).toBe(true);
    const { room, refused, take } = roomOf();
    take(7, { requester: child.pid! });
    expect(room.round(0)).toEqual({ done: 0, refused: 0, dropped: 1 });
    expect(refused).toEqual([[7, EINTR]]);
  });
});

describe('the words of held requests', () => {
  test('have no room before the room is open, and none above their limit', () => {
    const { held } = ServingWords.create(1);
    expect(held.enter(1)).toBe(false);
    held.openRoom();
    const half = (HELD_KIB_MAX / 2 - 1) * 1024;
    expect([held.enter(half), held.enter(half), held.enter(1)]).toEqual([true, true, false]);
    expect(held.requests).toBe(2);
    held.leave(half);
    expect(held.enter(1)).toBe(true);
  });

  test('wake a sleeper that has seen an older turn', () => {
    const { held } = ServingWords.create(1);
    const { turn } = held;
    held.giveUp();
    const start = performance.now();
    held.sleep(turn, 5000);
    expect(performance.now() - start).toBeLessThan(2500);
    expect(held.isGivenUp).toBe(true);
  });
});
