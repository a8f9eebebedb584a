#!/usr/bin/env node
// Where slow reads of a mount spend their time: its worker runs, sleeps for a lock, or waits for a processor, and behind whom; then the
// same of the program that reads. What other programs add is told apart, so that a busy machine can judge latency, too. Record first,
// while one program reads with one request at a time:
//   perf record -a -e sched:sched_switch,sched:sched_waking,fuse:fuse_request_send,fuse:fuse_request_end -- sleep 2

import { execFileSync } from 'node:child_process';
import { parseOptions } from '../parse-options.mjs';

const USAGE =
  'node scripts/bench/slow-reads.mjs [--file FILE] [--above US]\n' +
  '  --file FILE  what perf has recorded (default perf.data)\n' +
  '  --above US   a read that takes so many microseconds is slow (default 150)';
const LINE = /^\s*(.+?)\s+(\d+)\s+\[(\d+)\]\s+([\d.]+):\s+\w+:(\w+):\s*(.*)$/;
const SWITCH = /prev_pid=(\d+) prev_prio=-?\d+ prev_state=(\S+) ==> next_comm=(.*) next_pid=(\d+)/;
const WAKING = /pid=(\d+) prio=-?\d+ target_cpu=(\d+)/;
const REQUEST = /connection (\d+) req (\d+)(?: opcode (\d+))?/;
const FUSE_READ = '15';

/** What happened, in the order of time: seconds, processor, thread, its name, event, its fields. */
function recorded(file) {
  const fields = ['-F', 'comm,tid,cpu,time,event,trace'];
  const text = execFileSync('perf', ['script', '-i', file, ...fields], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
    maxBuffer: 2 ** 31,
  });
  const events = [];
  for (const line of text.split('\n')) {
    const found = LINE.exec(line);
    if (found === null) continue;
    const [, name, thread, cpu, time, event, rest] = found;
    events.push({ name, thread: Number(thread), cpu: Number(cpu), time: Number(time), event, rest });
  }
  return events.sort((a, b) => a.time - b.time);
}

/** The reads of the thread that reads most, and who serves its connection. */
function readsOf(events) {
  const requests = events.filter(({ event }) => event.startsWith('fuse_request'));
  const counts = new Map();
  for (const each of requests) {
    [, each.connection, each.request, each.opcode] = REQUEST.exec(each.rest) ?? [];
    if (each.opcode === FUSE_READ) counts.set(each.thread, (counts.get(each.thread) ?? 0) + 1);
  }
  const [reader] = [...counts].sort(([, a], [, b]) => b - a)[0] ?? [];
  if (reader === undefined) throw new Error('no program has read from a mount');
  const { connection } = requests.find(({ thread, opcode }) => thread === reader && opcode === FUSE_READ);
  const ours = requests.filter((each) => each.connection === connection);
  const workers = new Set(ours.filter(({ event }) => event === 'fuse_request_end').map(({ thread }) => thread));
  const sent = new Map();
  const reads = [];
  for (const { event, thread, request, time } of ours) {
    if (event === 'fuse_request_send' && thread === reader) sent.set(request, time);
    else if (event === 'fuse_request_end' && sent.has(request)) {
      reads.push({ start: sent.get(request), answered: time, worker: thread });
    }
  }
  return { reader, workers, clients: new Set(ours.map(({ thread }) => thread)), reads };
}

/** For each watched thread its states one after the other, and for each processor the threads that it ran. */
function schedule(events, watched) {
  const states = new Map([...watched].map((thread) => [thread, []]));
  const processors = new Map();
  const enter = (thread, state, time, cpu) => {
    const list = states.get(thread);
    const last = list?.at(-1);
    if (list === undefined || last?.state === state) return;
    if (last !== undefined) last.end = time;
    list.push({ start: time, end: Number.POSITIVE_INFINITY, state, cpu });
  };
  for (const { event, rest, time, cpu } of events) {
    if (event === 'sched_switch') {
      const [, previous, state, name, next] = SWITCH.exec(rest);
      enter(Number(previous), state.startsWith('R') ? 'waits' : 'sleeps', time, cpu);
      enter(Number(next), 'runs', time, cpu);
      if (!processors.has(cpu)) processors.set(cpu, []);
      const ran = processors.get(cpu);
      if (ran.length > 0) ran.at(-1).end = time;
      ran.push({ start: time, end: Number.POSITIVE_INFINITY, thread: Number(next), name });
    } else if (event === 'sched_waking') {
      const [, thread, target] = WAKING.exec(rest);
      if (states.get(Number(thread))?.at(-1)?.state !== 'runs') enter(Number(thread), 'waits', time, Number(target));
    }
  }
  return { states, processors };
}

/** The parts of sorted pieces that lie in [start, end). */
function* within(pieces, start, end) {
  let low = 0;
  for (let high = pieces.length; low < high; ) {
    const middle = (low + high) >> 1;
    if (pieces[middle].end <= start) low = middle + 1;
    else high = middle;
  }
  for (; low < pieces.length && pieces[low].start < end; low++) {
    const piece = pieces[low];
    yield {
      ...piece,
      seconds: Math.min(piece.end, end) - Math.max(piece.start, start),
      from: Math.max(piece.start, start),
    };
  }
}

/** When a thread runs again. */
function nextRun(states, time) {
  for (const { state, start } of within(states, time, Number.POSITIVE_INFINITY)) if (state === 'runs') return start;
  return time;
}

function explain({ start, answered, done, worker }, { reader, workers, clients, states, processors }) {
  const causes = new Map();
  const add = (cause, seconds) => causes.set(cause, (causes.get(cause) ?? 0) + seconds);
  const behind = ({ thread, name }) =>
    workers.has(thread) ? 'a worker' : clients.has(thread) ? 'a client' : `other: ${name}`;
  const parts = [
    ['the worker', worker, start, answered],
    ['the reader', reader, answered, done],
  ];
  for (const [who, thread, from, to] of parts) {
    for (const { state, cpu, seconds, from: begin } of within(states.get(thread), from, to)) {
      if (state !== 'waits') add(`${who} ${state}`, seconds);
      else {
        for (const ran of within(processors.get(cpu) ?? [], begin, begin + seconds)) {
          add(`${who} waits behind ${behind(ran)}`, ran.seconds);
        }
      }
    }
  }
  return causes;
}

function percentile(sorted, share) {
  return Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] * 1e6);
}

function show(title, seconds) {
  seconds.sort((a, b) => a - b);
  const [p50, p99, p999] = [0.5, 0.99, 0.999].map((share) => percentile(seconds, share));
  console.log(`${title}: median ${p50} us, 99th percentile ${p99}, 99.9th ${p999}`);
}

const { file, above } = parseOptions(USAGE, {
  file: { type: 'string', default: 'perf.data' },
  above: { type: 'string', default: '150' },
});
const events = recorded(file);
const all = readsOf(events);
const scheduled = { ...all, ...schedule(events, new Set([...all.workers, all.reader])) };
const main = new Map();
const [whole, without] = [[], []];
for (const read of all.reads) {
  const back = nextRun(scheduled.states.get(all.reader), read.answered);
  const done = Math.max(read.answered, back);
  const seconds = done - read.start;
  whole.push(seconds);
  if (seconds * 1e6 < Number(above)) {
    without.push(seconds);
    continue;
  }
  const causes = [...explain({ ...read, done }, scheduled)].sort(([, a], [, b]) => b - a);
  without.push(causes.reduce((left, [cause, part]) => (cause.includes('other: ') ? left - part : left), seconds));
  const name = causes[0]?.[0].replace(/other: .*/, 'another program') ?? 'unknown';
  const { count, sum } = main.get(name) ?? { count: 0, sum: 0 };
  main.set(name, { count: count + 1, sum: sum + seconds });
}
show(`${whole.length} reads`, whole);
show('without waiting for other programs', without);
for (const [name, { count, sum }] of [...main].sort(([, a], [, b]) => b.count - a.count)) {
  console.log(`  ${count} of at least ${above} us, ${Math.round((sum / count) * 1e6)} on average: most of it, ${name}`);
}
