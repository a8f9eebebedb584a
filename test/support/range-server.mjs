// A server of one file, or of a few, in ranges that misbehaves on demand. It runs in a thread of its own, because who reads through a
// HostFile blocks its thread. Commands come through a port; a shared word says that the answer is there.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { parentPort, workerData } from 'node:worker_threads';

const { tls } = workerData;
/** What every path has, if there are no files of their own. */
let theFile = workerData.content;
/** path to content; empty: there is one file */
let files = new Map();
const settings = {
  etag: '"one"',
  lastModified: null,
  date: null,
  bytesPerSecond: 0,
  path: null,
  headers: {},
  honoursIfRange: true,
};
/** what the next matching requests meet: { do, times, from, ... } */
let plan = [];
let seen = [];
const sockets = new Set();

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
/** When the shared line is free again. */
let lineFreeAt = 0;

async function send(response, bytes) {
  const rate = settings.bytesPerSecond;
  const step = rate === 0 ? bytes.length : Math.max(1024, Math.floor(rate / 50));
  for (let at = 0; at < bytes.length && !response.destroyed; at += step) {
    const part = bytes.subarray(at, at + step);
    if (rate > 0) {
      lineFreeAt = Math.max(lineFreeAt, performance.now()) + (part.length / rate) * 1000;
      await sleep(Math.max(0, lineFreeAt - performance.now()));
    }
    response.write(part);
  }
  response.end();
}

function rangeOf(request, content) {
  const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
  if (first === undefined) return null;
  return { start: Number(first), end: Math.min(Number(last) + 1, content.length) };
}

function validators() {
  const headers = { ...settings.headers };
  if (settings.etag !== null) headers.etag = settings.etag;
  if (settings.lastModified !== null) headers['last-modified'] = settings.lastModified;
  if (settings.date !== null) headers.date = settings.date;
  return headers;
}

function nextRule(range) {
  const index = plan.findIndex((rule) => rule.from === undefined || (range !== null && range.start === rule.from));
  if (index < 0) return null;
  const rule = plan[index];
  rule.times = (rule.times ?? 1) - 1;
  if (rule.times <= 0) plan.splice(index, 1);
  return rule;
}

async function answer(request, response) {
  const content = files.get(request.url) ?? theFile;
  const range = rangeOf(request, content);
  seen.push({ url: request.url, range: request.headers.range ?? null, ifRange: request.headers['if-range'] ?? null });
  response.on('error', () => {});
  const rule = nextRule(range);
  const isMissing = files.size > 0 ? !files.has(request.url) : settings.path !== null && request.url !== settings.path;
  if (isMissing && rule === null) {
    response.writeHead(404).end();
    return;
  }
  const ifRange = request.headers['if-range'];
  const isSame = settings.honoursIfRange && (ifRange === settings.etag || ifRange === settings.lastModified);
  const isStale = ifRange !== undefined && !isSame;
  const whole = () => {
    response.writeHead(200, { ...validators(), 'content-length': content.length });
    return send(response, content);
  };
  const rangeHeaders = (headers = {}) => {
    const all = {
      ...validators(),
      'content-length': range.end - range.start,
      'content-range': `bytes ${range.start}-${range.end - 1}/${content.length}`,
      ...headers,
    };
    return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
  };
  const partial = (headers = {}, extra = 0) => {
    response.writeHead(206, rangeHeaders(headers));
    return send(response, content.subarray(range.start, range.end + extra));
  };
  switch (rule?.do) {
    case 'status':
      return void response.writeHead(rule.code, rule.headers ?? {}).end('no');
    case 'redirect':
      return void response.writeHead(rule.code ?? 302, { location: rule.to }).end();
    case 'whole':
      return whole();
    case 'refuse':
      return void request.socket.destroy();
    case 'silence':
      return;
    case 'headers':
      return partial(rule.headers);
    case 'ignore-if-range':
      return partial();
    case 'more':
      return partial({ 'content-length': undefined }, 10);
    case 'cut': {
      response.writeHead(206, rangeHeaders());
      await new Promise((resolve) => response.write(content.subarray(range.start, range.start + rule.after), resolve));
      await sleep(20);
      return void request.socket.destroy();
    }
    case 'drip': {
      response.writeHead(206, rangeHeaders());
      for (let at = range.start; at < range.end && !response.destroyed && !request.socket.destroyed; at++) {
        response.write(content.subarray(at, at + 1));
        await sleep(rule.everyMs);
      }
      return void response.end();
    }
  }
  if (range === null || isStale) return whole();
  if (range.start >= content.length) {
    return void response.writeHead(416, { 'content-range': `bytes */${content.length}` }).end();
  }
  return partial();
}

const onRequest = (request, response) => void answer(request, response);
const server =
  tls === undefined
    ? createServer(onRequest)
    : createTlsServer({ key: readFileSync(tls.key), cert: readFileSync(tls.cert) }, onRequest);
server.keepAliveTimeout = 60_000;
server.on('connection', (socket) => {
  sockets.add(socket);
  socket.on('error', () => {});
  socket.on('close', () => sockets.delete(socket));
});

const listen = (port) => new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
const stop = () =>
  new Promise((resolve) => {
    server.close(() => resolve());
    for (const socket of sockets) socket.destroy();
  });

const commands = {
  listen: async (port) => {
    await listen(port);
    return server.address().port;
  },
  stop,
  set: (change) => void Object.assign(settings, change),
  plan: (rules) => {
    plan = rules;
  },
  content: (bytes) => {
    theFile = bytes;
  },
  files: (entries) => {
    files = new Map(entries);
  },
  requests: () => seen,
  forget: () => {
    seen = [];
  },
};

parentPort.on('message', async ({ command, argument, port, answered }) => {
  port.postMessage(await commands[command](argument));
  Atomics.store(answered, 0, 1);
  Atomics.notify(answered, 0);
});
