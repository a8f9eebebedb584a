// Entry of the threads that serve requests until the mount ends: the workers, and the waiting room of full=wait. Each works on the
// shared state of the open image, through an attached disk of its own.

import { availableParallelism } from 'node:os';
import { parentPort, receiveMessageOnPort } from 'node:worker_threads';
import { attachDisk, logLongHolds, type SharedDisk, type VirtualDisk } from '../../disk/index.ts';
import { describeError } from '../../errors/index.ts';
import { DiskFilesystem } from '../../filesystem/index.ts';
import { type Channel, Device, FuseServer, mayHaveRequest, readCounters, ServedPages } from '../../fuse/index.ts';
import { runDelayClock } from '../../host/run-delay.ts';
import { takeTurns } from '../../host/thread-life.ts';
import { setIoFlusher } from '../../native/index.ts';
import { type LogLevel, requestErrorLog } from '../log.ts';
import { refusalLog, tableLog } from '../refusal-log.ts';
import { BacklogChannel } from './backlog-channel.ts';
import { BusyPoll } from './busy-poll.ts';
import { holdRequests } from './hold.ts';
import { Gate, RequestGate } from './request-gate.ts';
import { ServingWords } from './serving-words.ts';
import {
  FIRST_SLOT,
  type HeldMessage,
  type RoomData,
  type ServeData,
  type ThreadMessage,
  type ToldMessage,
} from './threads.ts';
import { RETRY_MS, WaitingRoom } from './waiting-room.ts';

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

/** What the main thread has told this thread, which never returns to its event loop. */
class Inbox {
  private disk: SharedDisk | null = null;
  private held: HeldMessage[] = [];

  /** The disk that was handed over last; the main thread sends one before it says that there is one. */
  takeDisk(): SharedDisk {
    this.receive();
    if (this.disk === null) throw new Error('a disk was announced, but none was handed over');
    const { disk } = this;
    this.disk = null;
    return disk;
  }

  takeHeld(): readonly HeldMessage[] {
    this.receive();
    return this.held.splice(0);
  }

  private receive(): void {
    for (;;) {
      const received = parentPort === null ? undefined : receiveMessageOnPort(parentPort);
      if (received === undefined) return;
      const message = received.message as ToldMessage;
      if (message.type === 'disk') this.disk = message.disk;
      else this.held.push(message);
    }
  }
}

/** What a thread of either kind works with. */
interface Station {
  readonly data: ServeData;
  readonly filesystem: DiskFilesystem;
  readonly pages: ServedPages;
  readonly words: ServingWords;
  readonly gate: Gate;
  readonly inbox: Inbox;
}

function prepare(data: ServeData): Station {
  const { slot, disk, tree, generation, descriptor, protocol } = data;
  const inbox = new Inbox();
  const pages = new ServedPages(descriptor, protocol, (drop, channel) => {
    // a request of the waiting room came to another thread
    post({ type: 'drop', drop, descriptor: channel instanceof Device ? channel.fd : descriptor });
  });
  const filesystem = new DiskFilesystem(attach(disk, slot), tree, refusalLog(log), tableLog(log), pages);
  const words = new ServingWords(data.words);
  const gate = new Gate(words, slot, generation, () => filesystem.takeOver(attach(inbox.takeDisk(), slot)));
  return { data, filesystem, pages, words, gate, inbox };
}

/** Only the first thread is asked whether it needs the others, and only one thread keeps a processor awake. */
function channelOf({ descriptor, slot }: ServeData): Channel {
  const device = new Device(descriptor);
  if (slot !== FIRST_SLOT) return device;
  const isWaiting = (): boolean => mayHaveRequest(descriptor);
  const crowded = (): void => post({ type: 'crowded' });
  if (availableParallelism() === 1) return new BacklogChannel(device, isWaiting, crowded);
  const poll = new BusyPoll(device, { isWaiting, delayMs: runDelayClock() });
  return new BacklogChannel(poll, isWaiting, () => {
    poll.stop();
    crowded();
  });
}

function serve({ data, filesystem, pages, words, gate }: Station): void {
  // only the first thread is asked: the others are there because of it
  let isUsed = data.slot !== FIRST_SLOT;
  const { descriptor } = data;
  const server = new FuseServer(new RequestGate(channelOf(data), gate), data.protocol, filesystem, {
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
    pages,
    counters: data.counters,
    ...(data.full === undefined ? {} : { hold: holdRequests({ words, descriptor, post, log }) }),
  });
  post({ type: 'started' });
  try {
    server.serve();
  } finally {
    gate.leave();
  }
}

/** Repeats what is held, several times a second, until the mount has ended and nothing is held any more. */
function wait({ data, filesystem, pages, words, gate, inbox }: Station, { limitMs }: RoomData): void {
  const server = new FuseServer(data.descriptor, data.protocol, filesystem, {
    hold: () => true,
    pages,
    onError: requestErrorLog(log),
  });
  const room = new WaitingRoom({ server, words, gate, limitMs });
  post({ type: 'started' });
  for (;;) {
    const { turn } = words.held;
    for (const { descriptor, ...held } of inbox.takeHeld()) room.take({ ...held, channel: new Device(descriptor) });
    const settled = room.round();
    if (settled !== null) post({ type: 'settled', settled });
    if (words.isStopped && room.isEmpty) return;
    words.held.sleep(turn, room.isEmpty ? Number.POSITIVE_INFINITY : RETRY_MS);
  }
}

parentPort?.once('message', (data: ServeData) => {
  markIoFlusher();
  takeTurns();
  logLongHolds((sentence) => log('notice', sentence));
  const station = prepare(data);
  if (typeof data.full === 'object') wait(station, data.full);
  else serve(station);
  post({ type: 'finished' });
});
