// The states of a mount process and the edges between them, as a table without effects: this file says which state follows an
// event, supervisor.ts acts on it and has the picture. Invariants: every state has entries for stop, crash and late, which the
// types demand; every state except `closing` ends by an event that comes by itself or by its deadline.

/** The mount shall end: a signal came, or the command that started it was gone before the mount answered. */
export interface Stop {
  readonly type: 'stop';
  readonly reason: string;
  /** exit code of this process if nothing was mounted yet */
  readonly exitCode: number;
}

/** A thread has died, or a bug has struck the main thread. */
export interface Crash {
  readonly type: 'crash';
  readonly error: Error;
}

export type MountEvent<Mount> =
  | Stop
  | Crash
  /** the deadline of this state has passed */
  | { readonly type: 'late' }
  /** the image is open */
  | { readonly type: 'opened' }
  /** the image cannot be opened or mounted; nothing is left */
  | { readonly type: 'failed' }
  | { readonly type: 'answers'; readonly mount: Mount }
  /** the connection has ended: each thread ends after its running request */
  | { readonly type: 'gone' }
  /** the mount is in use and its connection cannot be ended */
  | { readonly type: 'stuck' }
  /** the image was closed in a handover and cannot be opened again */
  | { readonly type: 'lost'; readonly sentence: string }
  /** no thread runs a request, and none will */
  | { readonly type: 'quiet' }
  /** no thread serves the mount any more */
  | { readonly type: 'ended' }
  /** the disk is closed or rescued. @param error why it is not clean, or null */
  | { readonly type: 'done'; readonly error: string | null };

/** How the mount ended. */
export type MountEnding =
  /** nothing was mounted; start() tells why */
  | { readonly how: 'not-started' }
  | { readonly how: 'interrupted'; readonly reason: string; readonly exitCode: number }
  | { readonly how: 'crashed'; readonly error: Error }
  | { readonly how: 'clean' }
  | { readonly how: 'unclean'; readonly error: string };

export type MountState<Mount> =
  | { readonly phase: 'opening' }
  /** @param deferred what is done about it once the mount answers */
  | { readonly phase: 'mounting'; readonly deferred: Stop | Crash | null }
  | { readonly phase: 'serving'; readonly mount: Mount }
  | { readonly phase: 'unmounting'; readonly mount: Mount; readonly reason: string }
  | { readonly phase: 'waiting'; readonly mount: Mount }
  | { readonly phase: 'draining'; readonly mount: Mount }
  /** @param lost why there is no disk to close */
  | { readonly phase: 'leaving'; readonly mount: Mount; readonly reason: string; readonly lost: string | null }
  | { readonly phase: 'closing'; readonly mount: Mount; readonly lost: string | null }
  | { readonly phase: 'rescuing'; readonly mount: Mount; readonly failure: string }
  | { readonly phase: 'closed'; readonly ending: MountEnding };

export type Phase = MountState<unknown>['phase'];
export type EventType = MountEvent<unknown>['type'];

type StateOf<P extends Phase, Mount> = Extract<MountState<Mount>, { phase: P }>;
type EventOf<E extends EventType, Mount> = Extract<MountEvent<Mount>, { type: E }>;
type Edge<P extends Phase, E extends EventType, Mount> = (
  state: StateOf<P, Mount>,
  event: EventOf<E, Mount>,
) => MountState<Mount>;
type EdgesOf<P extends Phase, Mount> = {
  readonly [E in 'stop' | 'crash' | 'late']: Edge<P, E, Mount>;
} & {
  readonly [E in Exclude<EventType, 'stop' | 'crash' | 'late'>]?: Edge<P, E, Mount>;
};
type Edges<Mount> = { readonly [P in Phase]: EdgesOf<P, Mount> };

const stay = <S>(state: S): S => state;

const TOO_LATE = 'it did not end in time';
const REPAIR = 'the next read-write mount checks and repairs the image';

function closed<Mount>(ending: MountEnding): MountState<Mount> {
  return { phase: 'closed', ending };
}

function interrupted<Mount>({ reason, exitCode }: Stop): MountState<Mount> {
  return closed({ how: 'interrupted', reason, exitCode });
}

/** The end of a mount that was told to end, or crashed, before it answered; otherwise null. */
function brokenOff<Mount>(deferred: Stop | Crash | null): MountState<Mount> | null {
  if (deferred === null) return null;
  return deferred.type === 'stop' ? interrupted(deferred) : closed({ how: 'crashed', error: deferred.error });
}

function rescue<Mount>({ mount }: { readonly mount: Mount }, { error }: Crash): MountState<Mount> {
  return { phase: 'rescuing', mount, failure: `the mount process failed (${error.message}); ${REPAIR}` };
}

function drain<Mount>({ mount }: { readonly mount: Mount }): MountState<Mount> {
  return { phase: 'draining', mount };
}

function close<Mount>({ mount }: { readonly mount: Mount }): MountState<Mount> {
  return { phase: 'closing', mount, lost: null };
}

function leave<Mount>({ mount }: { readonly mount: Mount }, { reason }: Stop): MountState<Mount> {
  return { phase: 'leaving', mount, reason, lost: null };
}

/** Does not wait for running requests: without a disk none can be served. */
function lose<Mount>(
  { mount }: { readonly mount: Mount },
  { sentence }: { readonly sentence: string },
): MountState<Mount> {
  return { phase: 'leaving', mount, reason: 'the image is not open any more', lost: sentence };
}

function edges<Mount>(): Edges<Mount> {
  return {
    opening: {
      stop: (_, stop) => interrupted(stop),
      crash: (_, { error }) => closed({ how: 'crashed', error }),
      // no deadline: the time depends on the size of the image and on the speed of the server
      late: stay,
      opened: () => ({ phase: 'mounting', deferred: null }),
      failed: () => closed({ how: 'not-started' }),
    },
    mounting: {
      stop: (state, stop) => (state.deferred === null ? { ...state, deferred: stop } : state),
      crash: (state, crash) => (state.deferred?.type === 'crash' ? state : { ...state, deferred: crash }),
      // comes only after something was deferred
      late: ({ deferred }) =>
        brokenOff(deferred) ?? closed({ how: 'crashed', error: new Error('the mount does not answer') }),
      answers: ({ deferred }, { mount }) =>
        deferred === null ? { phase: 'serving', mount } : next({ phase: 'serving', mount }, deferred),
      failed: ({ deferred }) => brokenOff(deferred) ?? closed({ how: 'not-started' }),
    },
    serving: {
      stop: ({ mount }, { reason }) => ({ phase: 'unmounting', mount, reason }),
      crash: rescue,
      late: stay,
      gone: drain,
      lost: lose,
      ended: close,
    },
    unmounting: {
      // already unmounting, and the time for that is bounded
      stop: stay,
      crash: rescue,
      late: stay,
      gone: drain,
      stuck: ({ mount }) => ({ phase: 'waiting', mount }),
      lost: lose,
      ended: close,
    },
    waiting: {
      stop: leave,
      crash: rescue,
      // waits as long as the mount is in use
      late: stay,
      gone: drain,
      lost: lose,
      ended: close,
    },
    draining: {
      stop: leave,
      crash: rescue,
      late: ({ mount }) => ({ phase: 'leaving', mount, reason: 'a request does not come to its end', lost: null }),
      lost: lose,
      ended: close,
    },
    leaving: {
      stop: stay,
      crash: rescue,
      late: ({ mount, lost }) => ({
        phase: 'rescuing',
        mount,
        failure: lost ?? `a request was still being served; ${REPAIR}`,
      }),
      lost: (state, { sentence }) => ({ ...state, lost: sentence }),
      quiet: ({ mount, lost }) => ({ phase: 'closing', mount, lost }),
      ended: ({ mount, lost }) => ({ phase: 'closing', mount, lost }),
    },
    closing: {
      // goes on: data that is being written would be lost, and the speed of the device bounds the time
      stop: stay,
      crash: rescue,
      late: stay,
      done: (_, { error }) => closed(error === null ? { how: 'clean' } : { how: 'unclean', error }),
    },
    rescuing: {
      stop: stay,
      crash: stay,
      late: ({ failure }) => closed({ how: 'unclean', error: `${failure}; ${TOO_LATE}` }),
      done: ({ failure }, { error }) =>
        closed({ how: 'unclean', error: error === null ? failure : `${failure}; ${error}` }),
    },
    closed: { stop: stay, crash: stay, late: stay },
  };
}

const EDGES = edges<never>();

/** @returns the state after the event; the same object if the event changes nothing */
export function next<Mount>(state: MountState<Mount>, event: MountEvent<Mount>): MountState<Mount> {
  const table = EDGES[state.phase] as Partial<Record<EventType, (from: unknown, by: unknown) => MountState<Mount>>>;
  return table[event.type]?.(state, event) ?? state;
}

/** Thrown by start() if the mount was told to end before it answered, which is not a failure. */
export class StartBrokenOff extends Error {
  /** exit code of this process */
  readonly exitCode: number;

  constructor(message: string, exitCode: number) {
    super(message);
    this.exitCode = exitCode;
  }
}
