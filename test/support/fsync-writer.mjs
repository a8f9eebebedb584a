// Writes numbered blocks to random places of a file and notes on the host what it asked for, so that a test can say after a
// crash which contents are legal. Usage: node fsync-writer.mjs FILE START LENGTH LOG. Runs until a write fails.
// Log: one line "w N BLOCK" before write N of BLOCK, "f N" after an fsync that covered all writes up to N.

import { appendFileSync, closeSync, fsyncSync, openSync, writeSync } from 'node:fs';

const BLOCK = 4096;
const [file, startText, lengthText, log] = process.argv.slice(2);
const start = Number(startText);
const blocks = Math.floor(Number(lengthText) / BLOCK);
const descriptor = openSync(file, 'r+');
const buffer = Buffer.alloc(BLOCK);
try {
  for (let n = 1; ; n++) {
    const block = Math.floor(Math.random() * blocks);
    for (let at = 0; at < BLOCK; at += 4) buffer.writeUInt32LE(n, at);
    appendFileSync(log, `w ${n} ${block}\n`);
    writeSync(descriptor, buffer, 0, BLOCK, start + block * BLOCK);
    if (n % 16 === 0) {
      fsyncSync(descriptor);
      appendFileSync(log, `f ${n}\n`);
    }
  }
} catch (error) {
  appendFileSync(log, `e ${error.code}\n`);
  closeSync(descriptor);
}
