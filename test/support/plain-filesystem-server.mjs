// Child process that mounts the plain filesystem and serves it: the server of a mount must not be the process that
// touches it. Also its own worker thread. Spoken to by IPC; ends when the mount ends, when the test process goes away,
// or after LIFETIME_MS, so that a test that hangs in the mount gets an error instead.

import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { createCounters, FuseServer, mountFuseNative, mountKernel, readCounters } from '../../dist/fuse/index.js';
import { createSharedAttributes, PlainFilesystem } from './plain-filesystem.mjs';

const LIFETIME_MS = 100_000;

if (isMainThread) await main(JSON.parse(process.argv[2]));
else work(workerData);

async function main(options) {
  const counters = createCounters();
  const errors = [];
  const attributes = createSharedAttributes();
  let session;
  let ended;
  try {
    if (options.transport === 'kernel') ({ session, ended } = serveKernel(options, attributes, counters, errors));
    else {
      const filesystem = new PlainFilesystem({ ...options, rootIsFile: false, attributes });
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
      if (request.type === 'counters') return reply({ type: 'counters', counters: readCounters(counters), errors });
      if (request.type === 'abort') session.abort();
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
  reply({ type: 'ended', ends, errors });
  if (process.connected) process.removeListener('disconnect', giveUp).disconnect();
}

function serveKernel(options, attributes, counters, errors) {
  const session = mountKernel(options);
  const workers = Array.from({ length: options.workers }, () => {
    const fd = session.cloneDevice();
    const data = { ...options, rootIsFile: session.rootIsFile, attributes, counters, fd, protocol: session.protocol };
    const worker = new Worker(new URL(import.meta.url), { workerData: data });
    return new Promise((done) => {
      let end;
      worker.on('message', (message) => {
        if (message.error !== undefined) errors.push(message.error);
        else end = message.end;
      });
      worker.on('error', (error) => errors.push(error.stack));
      worker.on('exit', () => done(end));
    });
  });
  return { session, ended: Promise.all(workers) };
}

function work(data) {
  const server = new FuseServer(data.fd, data.protocol, new PlainFilesystem(data), {
    counters: data.counters,
    onError: (error, operation) => parentPort.postMessage({ error: `${operation}: ${error.stack}` }),
  });
  parentPort.postMessage({ end: server.serve() });
}

function reply(message) {
  if (process.connected) process.send(message);
}
