// Entry of the threads that serve requests until the mount ends. Each works on the shared state of the open image, through
// an attached disk of its own.

import { parentPort, receiveMessageOnPort } from 'node:worker_threads';
import { attachDisk, logLongHolds, type SharedDisk, type VirtualDisk } from '../../disk/index.ts';
import { describeError } from '../../errors/index.ts';
import { DiskFilesystem } from '../../filesystem/index.ts';
import { Device, FuseServer, readCounters } from '../../fuse/index.ts';
import { setIoFlusher } from '../../native/index.ts';
import { type LogLevel, requestErrorLog } from '../log.ts';
import { refusalLog } from '../refusal-log.ts';
import { Gate, RequestGate } from './request-gate.ts';
import { ServingWords } from './serving-words.ts';
import { type DiskMessage, FIRST_SLOT, type ServeData, type ThreadMessage } from './threads.ts';

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

function attach(disk: SharedDisk, slot: number): VirtualDisk {
  return attachDisk(disk, slot, (sentence) => log('notice', sentence));
}

/** The disk that the main thread has handed over last; it sends one before it says that there is one. */
function receiveDisk(slot: number): VirtualDisk {
  let last: DiskMessage | undefined;
  for (;;) {
    const received = parentPort === null ? undefined : receiveMessageOnPort(parentPort);
    if (received === undefined) break;
    last = received.message as DiskMessage;
  }
  if (last === undefined) throw new Error('a disk was announced, but none was handed over');
  return attach(last.disk, slot);
}

function serve({ slot, disk, tree, ...data }: ServeData): void {
  const filesystem = new DiskFilesystem(attach(disk, slot), tree, refusalLog(log));
  const words = new ServingWords(data.words);
  const gate = new Gate(words, slot, data.generation, () => filesystem.takeOver(receiveDisk(slot)));
  // only the first thread is asked: the others are there because of it
  let isUsed = slot !== FIRST_SLOT;
  const server = new FuseServer(new RequestGate(new Device(data.descriptor), gate), data.protocol, filesystem, {
    shouldStop: () => {
      if (!isUsed && readCounters(data.counters)['OPEN'] !== undefined) {
        isUsed = true;
        post({ type: 'used' });
      }
      return words.isStopped;
    },
    onError: requestErrorLog(log),
    later: (message) => {
      const copy = Uint8Array.from(message);
      parentPort?.postMessage({ type: 'later', message: copy, descriptor: data.descriptor } satisfies ThreadMessage, [
        copy.buffer,
      ]);
    },
    counters: data.counters,
  });
  post({ type: 'started' });
  try {
    server.serve();
  } finally {
    gate.leave();
  }
  post({ type: 'finished' });
}

parentPort?.once('message', (data: ServeData) => {
  markIoFlusher();
  logLongHolds((sentence) => log('notice', sentence));
  serve(data);
});
