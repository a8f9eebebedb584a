// The states of a mount process and the edges between them, as a table without effects: what happens to a state is here, what
// is done about it is the supervisor's, who has the picture. Invariants: stop, crash and late have an entry in every state,
// which the types demand; every state but `closing` ends by an event that comes by itself or by its deadline.

/** Somebody wants the mount to end: a signal, or the command that started it is gone before it was told that it answers. */
export interface Stop {
  readonly type: 'stop';
  readonly reason: string;
  /** of this process, when nothing was mounted yet */
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
  /** it cannot be opened or mounted; nothing is left of it */
  | { readonly type: 'failed' }
  | { readonly type: 'answers'; readonly mount: Mount }
  /** the connection has ended: threads end when they have done what they have in hand */
  | { readonly type: 'gone' }
  /** the mount is in use and its connection cannot be ended */
  | { readonly type: 'stuck' }
  /** the image was closed in a handover and cannot be opened again */
  | { readonly type: 'lost'; readonly sentence: string }
  /** no thread has a request in hand, and none will */
  | { readonly type: 'quiet' }
  /** nobody serves any more */
  | { readonly type: 'ended' }
  /** the disk is closed or rescued. @param error why it is not clean, or null */
  | { readonly type: 'done'; readonly error: string | null };

/** How it ended. */
export type MountEnding =
  /** nothing was mounted, and `start` tells why */
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

/** The end of a mount that was told to end, or crashed, before it answered; null if neither. */
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

/** Nobody is waited for: no request can be served without a disk. */
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
      // no deadline: a check takes as long as the image is large, and a server as long as it is slow
      late: stay,
      opened: () => ({ phase: 'mounting', deferred: null }),
      failed: () => closed({ how: 'not-started' }),
    },
    mounting: {
      stop: (state, stop) => (state.deferred === null ? { ...state, deferred: stop } : state),
      crash: (state, crash) => (state.deferred?.type === 'crash' ? state : { ...state, deferred: crash }),
      // only once something was deferred
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
      // it is tried already, and bounded
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
      // for as long as the mount is in use
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
      // what is being written would be lost, and it is bounded by the speed of the device
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

/** @returns the state after the event; the same object when it changes nothing */
export function next<Mount>(state: MountState<Mount>, event: MountEvent<Mount>): MountState<Mount> {
  const table = EDGES[state.phase] as Partial<Record<EventType, (from: unknown, by: unknown) => MountState<Mount>>>;
  return table[event.type]?.(state, event) ?? state;
}

/** Thrown by the start of a mount that was told to end before it answered; its process ends differently than after a failure. */
export class StartBrokenOff extends Error {
  /** of this process */
  readonly exitCode: number;

  constructor(message: string, exitCode: number) {
    super(message);
    this.exitCode = exitCode;
  }
}
