// Calls functions of the program in a process that has no file descriptor left, one for each line of its output: what they give, or
// that they fail. Whatever nobody catches is a line, too. Run it under a small `ulimit -n`.

import { openSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

const dist = new URL('../../dist/', import.meta.url);
const { askBlkid } = await import(new URL('guest/blkid.js', dist));
const { runProgram } = await import(new URL('guest/programs.js', dist));
const { askForProcesses } = await import(new URL('mounts/users.js', dist));

const say = (name, what) => writeSync(1, `${name}: ${what}\n`);
process.on('uncaughtException', ({ message }) => say('uncaught', message));

const LIMIT_MS = 200;
try {
  for (;;) openSync('/dev/null');
} catch ({ code }) {
  say('limit', code);
}
const calls = {
  askBlkid: () => askBlkid({ path: '/none', offset: 0, size: 512 }, LIMIT_MS),
  askForProcesses: () => askForProcesses('/bin/true', [], LIMIT_MS),
  runProgram: () => runProgram('/bin/true', []),
};
for (const [name, call] of Object.entries(calls)) {
  await call().then(
    (answer) => say(name, JSON.stringify(answer)),
    ({ message }) => say(name, `fails: ${message}`),
  );
}
// what a limit of time does later
await sleep(2 * LIMIT_MS);
