// Entry of every thread of a mount process: one that serves requests until the mount ends, or the one that maintains the
// image meanwhile. Both work on the shared state of the open image, through an attached disk of their own.

import { parentPort, receiveMessageOnPort } from 'node:worker_threads';
import { attachDisk, type VirtualDisk } from '../disk/index.ts';
import { describeError } from '../errors/index.ts';
import { DiskFilesystem } from '../filesystem/index.ts';
import { Device } from '../fuse/device.ts';
import { FuseServer } from '../fuse/index.ts';
import { setIoFlusher } from '../native/index.ts';
import { type LogLevel, requestErrorLog } from './log.ts';
import { Gate, RequestGate } from './request-gate.ts';
import {
  type DiskMessage,
  type MaintainData,
  type ServeData,
  STOP,
  type ThreadData,
  type ThreadMessage,
} from './threads.ts';

const MAINTAIN_INTERVAL_MS = 250;

function post(message: ThreadMessage): void {
  parentPort?.postMessage(message);
}

function log(level: LogLevel, sentence: string): void {
  post({ type: 'log', level, sentence });
}

/** Memory reclaim may wait for what this thread serves; without the privilege it serves all the same. */
function markIoFlusher(): void {
  try {
    setIoFlusher();
  } catch (error) {
    log('debug', `this thread is not marked as an I/O flusher: ${describeError(error)}`);
  }
}

function attach(data: ThreadData): VirtualDisk {
  return attachDisk(data.disk, data.slot, (sentence) => log('notice', sentence));
}

/** The disk that the main thread has handed over last; it sends one before it says that there is one. */
function receiveDisk(data: ThreadData): VirtualDisk {
  let last: DiskMessage | undefined;
  for (;;) {
    const received = parentPort === null ? undefined : receiveMessageOnPort(parentPort);
    if (received === undefined) break;
    last = received.message as DiskMessage;
  }
  if (last === undefined) throw new Error('a disk was announced, but none was handed over');
  return attach({ ...data, disk: last.disk });
}

function serve(data: ServeData): void {
  const filesystem = new DiskFilesystem(attach(data), data.tree);
  const gate = new Gate(data.stopWord, data.slot, data.generation, () => filesystem.takeOver(receiveDisk(data)));
  const server = new FuseServer(new RequestGate(new Device(data.descriptor), gate), data.protocol, filesystem, {
    shouldStop: () => Atomics.load(data.stopWord, 0) !== STOP.run,
    onError: requestErrorLog(log),
    counters: data.counters,
  });
  post({ type: 'started' });
  try {
    server.serve();
  } finally {
    gate.leave();
  }
}

function maintain(data: MaintainData): void {
  const logTrouble = requestErrorLog(log);
  let disk = attach(data);
  const gate = new Gate(data.stopWord, data.slot, data.generation, () => {
    disk = receiveDisk(data);
  });
  post({ type: 'started' });
  while (Atomics.load(data.stopWord, 0) === STOP.run) {
    Atomics.wait(data.stopWord, 0, STOP.run, MAINTAIN_INTERVAL_MS);
    if (!gate.enter()) break;
    try {
      disk.maintain();
    } catch (error) {
      logTrouble(error, 'background work');
    } finally {
      gate.leave();
    }
  }
  gate.leave();
  if (Atomics.load(data.stopWord, 0) !== STOP.rescue) return;
  gate.renew();
  rescue(disk);
}

/** After a crash of another thread the tables in memory are not trusted enough to call the image clean. */
function rescue(disk: VirtualDisk): void {
  try {
    disk.flush();
  } catch (error) {
    log('error', `${disk.path}: the last flush failed: ${describeError(error)}`);
  }
}

parentPort?.once('message', (data: ThreadData) => {
  markIoFlusher();
  if (data.role === 'serve') serve(data);
  else maintain(data);
});
