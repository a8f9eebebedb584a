// Opens an image for writing again and again for three seconds, and notes on the host when it has it and when it lets go.
// Usage: node lock-racer.mjs IMAGE FORMAT LOG imgfuse|qemu-io. A refusal is no failure; anything else is.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { openDisk } from '../../dist/disk/index.js';

const [image, format, log, program] = process.argv.slice(2);
const note = (sign) => appendFileSync(log, `${sign}${program} ${process.pid}\n`);
const end = performance.now() + 3000;
while (performance.now() < end) {
  if (program === 'imgfuse') imgfuse();
  else await qemuIo();
  await delay(Math.random() * 50);
}

function imgfuse() {
  let disk;
  try {
    disk = openDisk(image, { readOnly: false, format });
  } catch (error) {
    if (error.kind !== 'busy') throw error;
    return;
  }
  note('+');
  disk.write(new Uint8Array(4096).fill(1), 0, 4096, Math.floor(Math.random() * 1000) * 4096);
  note('-');
  disk.close();
}

/** It prompts once it has the image, and ends at once when it does not get it. */
async function qemuIo() {
  const child = spawn('qemu-io', ['-f', format, image]);
  const gone = once(child, 'exit');
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (text += chunk));
  const prompts = async (count) => {
    while (text.split('qemu-io> ').length <= count && child.exitCode === null) await delay(2);
  };
  await prompts(1);
  if (child.exitCode === null) {
    note('+');
    child.stdin.write(`write -P 2 ${Math.floor(Math.random() * 1000)}k 1k\n`);
    await prompts(2);
    note('-');
    child.stdin.end('quit\n');
  }
  await gone;
  if (!/lock/i.test(text) && !/wrote/.test(text)) throw new Error(text);
}
