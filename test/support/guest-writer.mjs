// Writes files with contents that follow from their number into a directory, some of them fsynced and some removed again, and
// notes on the host what the file system has promised. Usage: node guest-writer.mjs DIRECTORY LOG. Runs until one fails.
// Log: "f N BYTES" after file N and its directory were fsynced, "d N" before file N is removed.

import { appendFileSync, closeSync, fsyncSync, openSync, unlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';

const BYTES_MAX = 200_000;
const KEPT = 40;
const [directory, log] = process.argv.slice(2);

function fsync(path) {
  const descriptor = openSync(path, 'r');
  fsyncSync(descriptor);
  closeSync(descriptor);
}

try {
  for (let n = 1; ; n++) {
    const bytes = 1 + Math.floor(Math.random() * BYTES_MAX);
    const descriptor = openSync(join(directory, `file-${n}`), 'w');
    writeSync(descriptor, Buffer.alloc(bytes, `${n} `));
    fsyncSync(descriptor);
    closeSync(descriptor);
    fsync(directory);
    appendFileSync(log, `f ${n} ${bytes}\n`);
    if (n > KEPT) {
      appendFileSync(log, `d ${n - KEPT}\n`);
      unlinkSync(join(directory, `file-${n - KEPT}`));
    }
  }
} catch (error) {
  appendFileSync(log, `e ${error.code}\n`);
}
