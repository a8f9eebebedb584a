// A thread of script.ts: does one operation at a time on the shared disk, and at each failpoint what its script says. The
// words it shares with the script are described there.

import { parentPort, workerData } from 'node:worker_threads';

const { dist, slot, control, layout } = workerData;
const { FAILPOINTS, listenToFailpoints } = await import(new URL('concurrency/failpoints.js', dist));
const { steadyMs } = await import(new URL('concurrency/clock.js', dist));
const { attachDisk } = await import(new URL('disk/index.js', dist));
const { ImgfuseError } = await import(new URL('errors/index.js', dist));

const words = new Int32Array(control);
const own = layout.firstWorker + slot * layout.workerWords;

function record(index) {
  const entry = Atomics.add(words, layout.logCount, 1);
  if (entry < layout.logLength) words[layout.firstLog + entry] = slot * 256 + index;
}

listenToFailpoints((failpoint) => {
  const index = FAILPOINTS.indexOf(failpoint);
  record(index);
  const at = own + layout.firstFailpoint + index * layout.failpointWords;
  Atomics.add(words, at + layout.reached, 1);
  // waiting for others is where it waits already
  const countdown = failpoint === 'reservation-wait' ? 0 : Atomics.load(words, own + layout.stopAfter);
  if (countdown > 0) {
    Atomics.store(words, own + layout.stopAfter, countdown - 1);
    if (countdown === 1) return stop(index);
  }
  const action = Atomics.load(words, at + layout.action);
  if (action === layout.actions.none) {
    if (failpoint === 'reservation-wait') tell(layout.states.waiting);
    return;
  }
  if (Atomics.sub(words, at + layout.skip, 1) > 0) return;
  if (action === layout.actions.stop) {
    Atomics.store(words, at + layout.action, layout.actions.none);
    stop(index);
    return;
  }
  if (action === layout.actions.failOnce) Atomics.store(words, at + layout.action, layout.actions.none);
  const errno = Atomics.load(words, at + layout.errno);
  throw new ImgfuseError(errno === 28 ? 'no-space' : 'io', `${failpoint} fails by script`, {});
});

function stop(index) {
  tell(layout.states.stopped + index);
  Atomics.wait(words, own + layout.state, layout.states.stopped + index);
}

function tell(state) {
  Atomics.store(words, own + layout.state, state);
  Atomics.notify(words, own + layout.state);
}

let disk = null;
/** of the disk, as they were opened */
let snapshots = new Map();

function snapshotOf(position) {
  if (!snapshots.has(position)) snapshots.set(position, disk.openSnapshot(position));
  return snapshots.get(position);
}

function act(operation) {
  const { kind, at, length } = operation;
  switch (kind) {
    case 'attach':
      disk = attachDisk(operation.shared, slot);
      snapshots = new Map();
      return null;
    case 'write':
      disk.write(new Uint8Array(length).fill(operation.value), 0, length, at);
      return null;
    case 'read': {
      const bytes = new Uint8Array(length);
      disk.read(bytes, 0, length, at);
      return bytes;
    }
    case 'read-snapshot': {
      const bytes = new Uint8Array(length);
      snapshotOf(operation.snapshot).read(bytes, 0, length, at);
      return bytes;
    }
    case 'discard':
      disk.discard(at, length);
      return null;
    case 'zero':
      disk.writeZeroes(at, length);
      return null;
    case 'preallocate':
      disk.preallocate(at, length);
      return null;
    case 'resize':
      disk.resize(length);
      return null;
    case 'flush':
      disk.flush();
      return null;
    case 'maintain':
      disk.maintain(steadyMs() + 60_000);
      return null;
    default:
      throw new Error(`the script asks for ${kind}`);
  }
}

parentPort.on('message', (operation) => {
  let answer;
  try {
    answer = { bytes: act(operation), error: null };
  } catch (error) {
    answer = { bytes: null, error: error instanceof ImgfuseError ? error.message : String(error.stack) };
  }
  tell(layout.states.idle);
  parentPort.postMessage(answer);
});
parentPort.postMessage('ready');
