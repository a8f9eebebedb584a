// Reads random blocks of a file, buffered and direct, until its standard input ends; each block must be of one value.
// Usage: node block-reader.mjs FILE LENGTH. Exit code 0: every read succeeded, and no block stayed torn. A block that another program is
// writing into the image at that moment may be: the host copies page by page, and blocks of a VHD lie across pages.

import { constants, openSync, readSync } from 'node:fs';

const BLOCK = 4096;
const [file, length] = process.argv.slice(2);
const direct = openSync(file, constants.O_RDONLY | constants.O_DIRECT);
const descriptors = [openSync(file, 'r'), direct];
/** How long a writer may be at one block, on a machine with much else to do. */
const WRITING_MS = 2000;
const page = new Uint8Array(new SharedArrayBuffer(2 * BLOCK));
let open = true;
process.stdin.on('end', () => {
  open = false;
});
process.stdin.resume();

function readSome() {
  for (let count = 0; count < 50; count++) {
    const offset = Math.floor((Math.random() * Number(length)) / BLOCK) * BLOCK;
    if (isWhole(descriptors[count % 2], offset)) continue;
    // past the pages of the kernel, which would show the same again
    for (const end = performance.now() + WRITING_MS; !isWhole(direct, offset); ) {
      if (performance.now() > end) throw new Error(`the block at ${offset} is torn`);
    }
  }
  if (open) setImmediate(readSome);
}

function isWhole(descriptor, offset) {
  const bytes = Buffer.from(page.buffer, 0, BLOCK);
  const got = readSync(descriptor, bytes, 0, BLOCK, offset);
  if (got !== BLOCK) throw new Error(`${got} bytes at ${offset}`);
  return bytes.every((byte) => byte === bytes[0]);
}

readSome();
