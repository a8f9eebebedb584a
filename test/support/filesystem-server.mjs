// Child process that mounts a filesystem (served-filesystem.mjs) and serves it: the server of a mount must not be the process that
// touches it. Also its own worker thread. Spoken to by IPC; ends when the mount ends, when the test process goes away,
// or after LIFETIME_MS, so that a test that hangs in the mount gets an error instead.

import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import {
  answerAfterDrop,
  createCounters,
  Device,
  FuseServer,
  mountFuseNative,
  mountKernel,
  readCounters,
  ServedPages,
} from '../../dist/fuse/index.js';
import { HoldingDevice } from './holding-device.mjs';
import { attach, prepare } from './served-filesystem.mjs';

const LIFETIME_MS = 100_000;

if (isMainThread) await main(JSON.parse(process.argv[2]));
else work(workerData);

async function main(options) {
  const counters = createCounters();
  /** 1: a worker that has received a WRITE waits before it acts on it; then how many wait */
  const hold = new Int32Array(new SharedArrayBuffer(8));
  const errors = [];
  let served;
  let session;
  let ended;
  try {
    served = prepare(options);
    if (options.transport === 'kernel')
      ({ session, ended } = serveKernel(options, served.shared, counters, errors, hold));
    else {
      const filesystem = attach(options, served.shared, false, 0);
      const onError = (error, operation) => errors.push(`${operation}: ${error.stack}`);
      session = await mountFuseNative({ ...options, counters, onError }, filesystem);
      ended = session.ended;
    }
  } catch (error) {
    reply({ type: 'failed', kind: error.kind, message: error.message, stack: error.stack });
    process.exitCode = 32;
    return process.disconnect?.();
  }

  process.on('message', async (request) => {
    try {
      if (request.type === 'counters') {
        return reply({ type: 'counters', counters: readCounters(counters), held: Atomics.load(hold, 1), errors });
      }
      if (request.type === 'abort') session.abort();
      if (request.type === 'hold') holdWrites(hold, request.on);
      if (request.type === 'unmount') await session.unmount({ lazy: request.lazy === true });
      reply({ type: 'done' });
    } catch (error) {
      reply({ type: 'failed', kind: error.kind, message: error.message });
    }
  });
  const giveUp = () => {
    try {
      session.abort();
    } catch {
      // ended by itself meanwhile
    }
  };
  process.on('disconnect', giveUp);
  setTimeout(giveUp, LIFETIME_MS).unref();

  reply({ type: 'ready', rootIsFile: session.rootIsFile === true, mountpoint: session.mountpoint });
  const ends = await ended;
  try {
    served.close();
  } catch (error) {
    errors.push(error.stack);
  }
  reply({ type: 'ended', ends, errors });
  if (process.connected) process.removeListener('disconnect', giveUp).disconnect();
}

function holdWrites(hold, on) {
  Atomics.store(hold, 0, on ? 1 : 0);
  Atomics.notify(hold, 0);
}

function serveKernel(options, shared, counters, errors, hold) {
  const session = mountKernel(options);
  const workers = Array.from({ length: options.workers }, (_, index) => {
    const fd = session.cloneDevice();
    const data = {
      options,
      shared,
      rootIsFile: session.rootIsFile,
      slot: index + 1,
      counters,
      fd,
      protocol: session.protocol,
      hold,
    };
    const worker = new Worker(new URL(import.meta.url), { workerData: data });
    return new Promise((done) => {
      let end;
      worker.on('message', (message) => {
        if (message.error !== undefined) errors.push(message.error);
        else if (message.drop !== undefined) void answerAfterDrop(session.fd, message.drop, new Device(fd));
        else end = message.end;
      });
      worker.on('error', (error) => errors.push(error.stack));
      worker.on('exit', () => done(end));
    });
  });
  return { session, ended: Promise.all(workers) };
}

function work(data) {
  const pages = new ServedPages(data.fd, data.protocol, (drop) => parentPort.postMessage({ drop }));
  const filesystem = attach(data.options, data.shared, data.rootIsFile, data.slot, pages);
  const server = new FuseServer(new HoldingDevice(data.fd, data.hold), data.protocol, filesystem, {
    pages,
    counters: data.counters,
    onError: (error, operation) => parentPort.postMessage({ error: `${operation}: ${error.stack}` }),
  });
  parentPort.postMessage({ end: server.serve() });
}

function reply(message) {
  if (process.connected) process.send(message);
}
