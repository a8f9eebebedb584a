// A server of one file over HTTP, with ranges, that counts its requests. It runs as a thread of its own, because the rows wait
// for the programs that they measure. `countRequests` of the main thread starts it.

import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';

/** @returns its URL, how many requests it has had, and how to end it */
export async function countRequests(file, name) {
  const count = new Int32Array(new SharedArrayBuffer(4));
  const worker = new Worker(new URL(import.meta.url), { workerData: { file, name, count } });
  const url = await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
  return { url, requests: () => Atomics.load(count, 0), stop: () => worker.terminate() };
}

function serve({ file, name, count }) {
  const { size, mtime } = statSync(file);
  const server = createServer((request, response) => {
    Atomics.add(count, 0, 1);
    if (request.url !== `/${name}`) return response.writeHead(404).end();
    const headers = { 'Accept-Ranges': 'bytes', 'Last-Modified': mtime.toUTCString(), ETag: `"${size}"` };
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
    const start = range === null ? 0 : Number(range[1]);
    const end = Math.min(range === null || range[2] === '' ? size : Number(range[2]) + 1, size);
    if (range !== null) headers['Content-Range'] = `bytes ${start}-${end - 1}/${size}`;
    response.writeHead(range === null ? 200 : 206, { ...headers, 'Content-Length': end - start });
    if (request.method === 'HEAD') return response.end();
    response.end(readPart(file, start, end - start));
  });
  server.listen(0, '127.0.0.1', () => parentPort.postMessage(`http://127.0.0.1:${server.address().port}/${name}`));
}

function readPart(file, start, length) {
  const bytes = Buffer.alloc(length);
  const descriptor = openSync(file, 'r');
  readSync(descriptor, bytes, 0, length, start);
  closeSync(descriptor);
  return bytes;
}

if (!isMainThread) serve(workerData);
