// Reads random blocks of a file, buffered and direct, until its standard input ends; each block must be of one value.
// Usage: node block-reader.mjs FILE LENGTH. Exit code 0: every read succeeded and no block was torn.

import { constants, openSync, readSync } from 'node:fs';

const BLOCK = 4096;
const [file, length] = process.argv.slice(2);
const descriptors = [openSync(file, 'r'), openSync(file, constants.O_RDONLY | constants.O_DIRECT)];
const page = new Uint8Array(new SharedArrayBuffer(2 * BLOCK));
let open = true;
process.stdin.on('end', () => {
  open = false;
});
process.stdin.resume();

function readSome() {
  for (let count = 0; count < 50; count++) {
    const offset = Math.floor((Math.random() * Number(length)) / BLOCK) * BLOCK;
    const bytes = Buffer.from(page.buffer, 0, BLOCK);
    const got = readSync(descriptors[count % 2], bytes, 0, BLOCK, offset);
    if (got !== BLOCK) throw new Error(`${got} bytes at ${offset}`);
    if (!bytes.every((byte) => byte === bytes[0])) throw new Error(`the block at ${offset} is torn`);
  }
  if (open) setImmediate(readSome);
}
readSome();
