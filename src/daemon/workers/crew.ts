// The threads that serve one mount: the first one from the start, the others once requests wait for it, or it has died. A mount that
// nobody uses has one thread then, and its memory. With full=wait the last one is the waiting room, which starts with the first
// open of a file.
// Invariant: `ended` resolves when no thread serves any more and none will be started.

import type { SharedDisk } from '../../disk/index.ts';
import { BacklogWatch } from './backlog-watch.ts';
import type { ServingWords } from './serving-words.ts';
import { type HeldMessage, type ServeData, startThread, type Thread, type ThreadHears } from './threads.ts';

/** Called with events of the threads. */
export interface CrewEvents {
  /** a thread has died: its request is never answered, and its locks and reservations must be released */
  readonly died: (error: Error, threadId: number, slot: number) => void;
  /** somebody has opened a file for the first time */
  readonly used: () => void;
  /** a thread could not be started; the others serve without it */
  readonly missed: (error: Error, threadId: number, slot: number) => void;
  /** a thread has ended after the end of the connection or the stop word */
  readonly gone: () => void;
  /** a thread has ended, for whatever reason */
  readonly ended: (threadId: number) => void;
  /** the waiting room could not be started */
  readonly roomMissed: () => void;
}

export interface RequestLooks {
  /** how many requests the threads have received */
  readonly received: () => number;
  /** whether there is one that no thread has received yet */
  readonly isWaiting: () => boolean;
}

export class Crew {
  /** resolves when no thread serves the mount any more */
  readonly ended: Promise<void>;
  private readonly threads: Thread[] = [];
  private readonly words: ServingWords;
  private readonly events: CrewEvents;
  private readonly hears: ThreadHears;
  private waiting: readonly ServeData[];
  private backlog: BacklogWatch | undefined;
  private disk: SharedDisk | null = null;
  private room: Thread | null = null;
  private active = 0;
  private noteEnd: () => void = () => undefined;

  /**
   * @param first is ready
   * @param waiting what the others are started with
   * @param requests has looks at what the threads have received, and have not yet
   */
  constructor(
    first: Thread,
    waiting: readonly ServeData[],
    words: ServingWords,
    hears: ThreadHears,
    events: CrewEvents,
    requests: RequestLooks,
  ) {
    this.words = words;
    this.events = events;
    this.hears = hears;
    this.waiting = waiting;
    this.ended = new Promise((resolve) => {
      this.noteEnd = resolve;
    });
    this.watch(first, Promise.resolve(true));
    void first.used.then(() => {
      if (this.active === 0 || this.words.isStopped) return;
      this.events.used();
      this.start(isRoom);
      this.watchBacklog(first, requests);
    });
  }

  /** Passes every thread, also a later one, the disk that it attaches to when its gate tells it. */
  handOver(disk: SharedDisk): void {
    this.disk = disk;
    for (const thread of this.threads) thread.handOver(disk);
  }

  /** Gives the waiting room a request. A room that is gone has no use for it: then the mount has ended. */
  giveHeld(message: HeldMessage): void {
    this.room?.giveHeld(message);
  }

  /** The other workers start when requests wait for the first one, or when nobody can tell whether they do. */
  private watchBacklog(first: Thread, { received, isWaiting }: RequestLooks): void {
    if (this.waiting.length === 0) return;
    void first.crowded.then(() => this.startAll());
    const inHand = (): number | null => (this.words.hasRequestInHand(first.slot) ? received() : null);
    this.backlog = new BacklogWatch({ inHand, isWaiting, stuck: () => this.startAll() });
  }

  private startAll(): void {
    this.backlog?.stop();
    this.start(() => true);
  }

  /** Starts those that wait for it and are wanted. */
  private start(isWanted: (data: ServeData) => boolean): void {
    if (this.active === 0 || this.words.isStopped) return;
    const { generation } = this.words;
    const wanted = this.waiting.filter(isWanted);
    this.waiting = this.waiting.filter((data) => !wanted.includes(data));
    for (const data of wanted) {
      try {
        const thread = startThread({ ...data, disk: this.disk ?? data.disk, generation }, this.hears);
        // the gate may tell it of a disk that was handed over before it was there
        if (this.disk !== null) thread.handOver(this.disk);
        if (isRoom(data)) this.watchRoom(thread);
        this.watch(thread, thread.started);
      } catch (error) {
        this.hears.log('warning', `thread ${data.slot} of the mount cannot be started: ${(error as Error).message}`);
        if (isRoom(data)) this.events.roomMissed();
      }
    }
  }

  private watchRoom(room: Thread): void {
    void room.started.then((isStarted) => {
      if (!isStarted) return this.events.roomMissed();
      this.room = room;
      this.words.held.openRoom();
    });
  }

  private watch(thread: Thread, started: Promise<boolean>): void {
    const { threadId, slot } = thread;
    this.threads.push(thread);
    this.active++;
    void Promise.all([started, thread.ended]).then(([hasServed, error]) => {
      // the others serve in its place
      if (error !== null) this.startAll();
      this.active--;
      this.events.ended(threadId);
      if (!hasServed) this.events.missed(error ?? new Error('it ended at once'), threadId, slot);
      else if (error === null) this.events.gone();
      else this.events.died(error, threadId, slot);
      if (this.active > 0) return;
      this.backlog?.stop();
      this.noteEnd();
    });
  }
}

function isRoom({ full }: ServeData): boolean {
  return typeof full === 'object';
}
