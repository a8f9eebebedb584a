// Every edge of the states of a mount process: what each event does in each state, and that no state is left without a way out.

import { describe, expect, test } from 'vitest';
import {
  type Crash,
  type EventType,
  type MountEvent,
  type MountState,
  next,
  type Stop,
} from '../../../src/daemon/mount-state.ts';

type State = MountState<string>;
type Event = MountEvent<string>;

const STOP: Stop = { type: 'stop', reason: 'SIGTERM', exitCode: 143 };
const CRASH: Crash = { type: 'crash', error: new Error('out of memory') };
const mount = 'the mount';

/** States by name; those with something that decides about an edge have several. */
const STATES = {
  opening: { phase: 'opening' },
  mounting: { phase: 'mounting', deferred: null },
  'mounting, to be stopped': { phase: 'mounting', deferred: STOP },
  'mounting, crashed': { phase: 'mounting', deferred: CRASH },
  serving: { phase: 'serving', mount },
  unmounting: { phase: 'unmounting', mount, reason: 'SIGTERM' },
  waiting: { phase: 'waiting', mount },
  draining: { phase: 'draining', mount },
  leaving: { phase: 'leaving', mount, reason: 'SIGTERM', lost: null },
  'leaving, lost': { phase: 'leaving', mount, reason: 'SIGTERM', lost: 'gone' },
  closing: { phase: 'closing', mount, lost: null },
  rescuing: { phase: 'rescuing', mount, failure: 'a bug' },
  closed: { phase: 'closed', ending: { how: 'clean' } },
} as const satisfies Record<string, State>;

const EVENTS: { readonly [E in EventType]: Extract<Event, { type: E }> } = {
  stop: STOP,
  crash: CRASH,
  late: { type: 'late' },
  opened: { type: 'opened' },
  failed: { type: 'failed' },
  answers: { type: 'answers', mount },
  gone: { type: 'gone' },
  stuck: { type: 'stuck' },
  lost: { type: 'lost', sentence: 'the image has gone' },
  quiet: { type: 'quiet' },
  ended: { type: 'ended' },
  done: { type: 'done', error: null },
};

/** "-": the event changes nothing. */
const TABLE = `
                          stop          crash       late        opened    failed       answers     gone      stuck    lost     quiet    ended    done
opening                   interrupted   crashed     -           mounting  not-started  -           -         -        -        -        -        -
mounting                  mounting      mounting    crashed     -         not-started  serving     -         -        -        -        -        -
mounting,_to_be_stopped   -             mounting    interrupted -         interrupted  unmounting  -         -        -        -        -        -
mounting,_crashed         -             -           crashed     -         crashed      rescuing    -         -        -        -        -        -
serving                   unmounting    rescuing    -           -         -            -           draining  -        leaving  -        closing  -
unmounting                -             rescuing    -           -         -            -           draining  waiting  leaving  -        closing  -
waiting                   leaving       rescuing    -           -         -            -           draining  -        leaving  -        closing  -
draining                  leaving       rescuing    leaving     -         -            -           -         -        leaving  -        closing  -
leaving                   -             rescuing    rescuing    -         -            -           -         -        leaving  closing  closing  -
leaving,_lost             -             rescuing    rescuing    -         -            -           -         -        leaving  closing  closing  -
closing                   -             rescuing    -           -         -            -           -         -        -        -        -        clean
rescuing                  -             -           unclean     -         -            -           -         -        -        -        -        unclean
closed                    -             -           -           -         -            -           -         -        -        -        -        -
`;

/** The phase, and of the last one how it ended. */
function nameOf(state: State): string {
  return state.phase === 'closed' ? state.ending.how : state.phase;
}

const [heading, ...rows] = TABLE.trim()
  .split('\n')
  .map((line) => line.trim().split(/\s+/));
const cells = rows.flatMap(([state, ...targets]) =>
  targets.map((target, column) => [state!.replaceAll('_', ' '), heading![column]!, target] as const),
);

test('the table has every state and every event', () => {
  expect(rows.map(([state]) => state!.replaceAll('_', ' '))).toEqual(Object.keys(STATES));
  expect([...heading!].sort()).toEqual(Object.keys(EVENTS).sort());
});

test.each(cells)('%s, %s: %s', (stateName, eventName, target) => {
  const state: State = STATES[stateName as keyof typeof STATES];
  const after = next(state, EVENTS[eventName as EventType]);
  if (target === '-') expect(after).toBe(state);
  else expect([nameOf(after), after === state]).toEqual([target, false]);
});

describe('what a state carries on', () => {
  const run = (state: State, ...events: readonly Event[]): State => events.reduce(next, state);

  test('a signal before the mount answers ends with its own exit code, whenever it comes', () => {
    const ending = { how: 'interrupted', reason: 'SIGTERM', exitCode: 143 };
    expect(run(STATES.opening, STOP)).toEqual({ phase: 'closed', ending });
    expect(run(STATES.opening, EVENTS.opened, STOP, EVENTS.failed)).toEqual({ phase: 'closed', ending });
    expect(run(STATES.opening, EVENTS.opened, STOP, EVENTS.late)).toEqual({ phase: 'closed', ending });
  });

  test('a crash while it is mounted outweighs a signal before and after it', () => {
    const crashed = run(STATES.opening, EVENTS.opened, STOP, CRASH, STOP, EVENTS.answers);
    expect(crashed).toMatchObject({ phase: 'rescuing', mount });
    expect(run(crashed, EVENTS.done)).toMatchObject({
      ending: { how: 'unclean', error: expect.stringMatching(/out of memory/) },
    });
  });

  test('a lost image is told at the end, however the mount is left', () => {
    const lost = run(STATES.serving, EVENTS.lost);
    expect(run(lost, EVENTS.quiet)).toEqual({ phase: 'closing', mount, lost: 'the image has gone' });
    expect(run(lost, EVENTS.ended)).toEqual({ phase: 'closing', mount, lost: 'the image has gone' });
    expect(run(lost, EVENTS.late)).toEqual({ phase: 'rescuing', mount, failure: 'the image has gone' });
    expect(run(STATES.leaving, EVENTS.lost)).toMatchObject({ lost: 'the image has gone' });
  });

  test('what could not be written after a crash is told with the crash', () => {
    const ending = run(STATES.rescuing, { type: 'done', error: 'no space' });
    expect(ending).toEqual({ phase: 'closed', ending: { how: 'unclean', error: 'a bug; no space' } });
    expect(run(STATES.rescuing, EVENTS.late)).toEqual({
      phase: 'closed',
      ending: { how: 'unclean', error: 'a bug; it did not end in time' },
    });
  });
});

test('deadlines and signals alone lead from every state to the end, or to writing what is to be written', () => {
  for (const state of Object.values(STATES) as State[]) {
    let at = state;
    for (let step = 0; step < 10; step++) {
      at = next(next(at, EVENTS.late), STOP);
      // what is tried there is bounded by itself, and its outcome is an event
      if (at.phase === 'unmounting') at = next(at, EVENTS.stuck);
    }
    expect(at.phase).toBe(state.phase === 'closing' ? 'closing' : 'closed');
  }
});
