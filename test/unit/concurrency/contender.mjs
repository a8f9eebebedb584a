// A thread that fights over a mutex or over reservations; it checks the invariant itself while it holds them.

import { parentPort, workerData } from 'node:worker_threads';
import { Mutex } from '../../../dist/concurrency/mutex.js';
import { EXCLUSIVE, Reservations, SHARED } from '../../../dist/concurrency/reservations.js';

const { kind, words, state, cells, slot, rounds, size } = workerData;
const mutex = new Mutex(new Int32Array(words), 0);
const counters = new Int32Array(cells);
const violations = [];

/** Not atomic on purpose: two threads inside at once lose a count. */
function addSlowly(index) {
  const before = counters[index];
  for (let spin = 0; spin < 20; spin++) Math.sqrt(spin);
  counters[index] = before + 1;
}

function fightOverMutex() {
  for (let round = 0; round < rounds; round++) mutex.run(() => addSlowly(0));
}

/** cells: for each guest cluster a writer count, a reader count, and a number that only writers change. */
function fightOverReservations() {
  const reservations = new Reservations(state, mutex, slot);
  let seed = slot * 7919 + 1;
  const random = (limit) => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
    return seed % limit;
  };
  for (let round = 0; round < rounds; round++) {
    const start = random(size);
    const end = Math.min(size, start + 1 + random(4));
    const mode = random(3) === 0 ? EXCLUSIVE : SHARED;
    mutex.lock();
    reservations.acquire(start, end, mode);
    if (!mutex.held) violations.push('acquire returned without the lock');
    mutex.unlock();
    for (let cell = start; cell < end; cell++) {
      const own = Atomics.add(counters, cell * 3 + (mode === EXCLUSIVE ? 0 : 1), 1) + 1;
      if (mode === EXCLUSIVE) {
        if (own !== 1 || Atomics.load(counters, cell * 3 + 1) !== 0)
          violations.push(`cell ${cell} is shared with a writer`);
        addSlowly(cell * 3 + 2);
      } else if (Atomics.load(counters, cell * 3) !== 0) violations.push(`cell ${cell} is read while it is written`);
    }
    for (let cell = start; cell < end; cell++) Atomics.sub(counters, cell * 3 + (mode === EXCLUSIVE ? 0 : 1), 1);
    if (mode === EXCLUSIVE) Atomics.add(counters, size * 3, end - start);
    reservations.release();
  }
}

if (kind === 'mutex') fightOverMutex();
else fightOverReservations();
parentPort.postMessage(violations);
