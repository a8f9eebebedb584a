// The control socket of a mount: JSON lines over a Unix socket.
//   {"request":"status"} -> the status object    {"request":"wait"} -> {"closed":true,"clean":bool,"error"?} when closed
//   {"request":"remount","readOnly":bool} -> {"remounted":bool,"error"?} when it is done    {"request":"hello"} -> {}
// Lines of one connection are served in order, so the answer to a hello proves that a wait sent before it is registered.
// ControlServer runs in the main thread of the mount process, ControlClient in a command that asks it.

import { connect, createServer, type Server, type Socket } from 'node:net';
import { ImgfuseError } from '../errors/index.ts';
import type { OverlayReport } from './overlay-report.ts';

const REQUEST_MAX = 65536;
/** a table of 255 partitions with hostile names and labels is far below that */
const ANSWER_MAX = 4 * 1024 * 1024;
/** how long the end of a mount waits for its waiters to read the answer */
const FAREWELL_MS = 1000;

/** How a mount ended. */
export interface CloseResult {
  readonly closed: true;
  readonly clean: boolean;
  /** false if the mount never answered */
  readonly started?: false;
  readonly error?: string;
  /** absent: the changes went to the image itself */
  readonly overlay?: OverlayReport;
}

/** The result of a remount. */
export interface RemountResult {
  readonly remounted: boolean;
  /** why it was not done, or what went wrong although it was done */
  readonly error?: string;
}

/** Answers the requests of the socket. */
export interface ControlHandlers {
  /** @param isBrief without what takes time to find out */
  readonly status: (isBrief: boolean) => Promise<unknown>;
  readonly remount: (readOnly: boolean) => Promise<RemountResult>;
}

export class ControlServer {
  private readonly server: Server;
  private readonly sockets = new Set<Socket>();
  private readonly waiting = new Set<Socket>();
  private readonly handlers: ControlHandlers;
  private result: CloseResult | null = null;

  constructor(handlers: ControlHandlers) {
    this.handlers = handlers;
    this.server = createServer((socket) => this.serve(socket));
  }

  /** Starts listening at `path`, which must not exist. */
  listen(path: string): Promise<void> {
    return new Promise((resolve, reject) => {
      this.server.once('error', (cause) => {
        reject(new ImgfuseError('io', `the control socket ${path} cannot be opened`, { path }, cause));
      });
      this.server.listen(path, () => {
        this.server.removeAllListeners('error');
        this.server.on('error', () => {});
        resolve();
      });
    });
  }

  /** Tells all waiters the result, also those whose request has not been read yet, and stops listening. */
  async finish(result: CloseResult): Promise<void> {
    this.result = result;
    for (const socket of this.waiting) answer(socket, result);
    // requests that arrived while the image was being closed are read in the next turns of the event loop
    await new Promise((resolve) => setTimeout(resolve, 5));
    this.server.close();
    const farewells = [...this.sockets].map(
      (socket) =>
        new Promise<void>((resolve) => {
          socket.once('close', () => resolve());
          socket.end();
        }),
    );
    await Promise.race([
      Promise.all(farewells),
      new Promise((resolve) => {
        setTimeout(resolve, FAREWELL_MS).unref();
      }),
    ]);
    for (const socket of this.sockets) socket.destroy();
  }

  private serve(socket: Socket): void {
    this.sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => {
      this.sockets.delete(socket);
      this.waiting.delete(socket);
    });
    readLines(socket, REQUEST_MAX, (line) => this.handle(socket, line));
  }

  private handle(socket: Socket, line: string): void {
    const { request, readOnly, brief } = requestOf(line);
    if (request === 'status') {
      void this.statusOrError(brief === true).then((status) => answer(socket, status));
    } else if (request === 'wait') {
      if (this.result === null) this.waiting.add(socket);
      else answer(socket, this.result);
    } else if (request === 'hello') {
      answer(socket, {});
    } else if (request === 'remount' && typeof readOnly === 'boolean') {
      void this.handlers.remount(readOnly).then((result) => answer(socket, result));
    } else {
      answer(socket, { error: 'unknown request; there are "status", "hello", "wait" and "remount"' });
    }
  }

  private async statusOrError(isBrief: boolean): Promise<unknown> {
    try {
      return await this.handlers.status(isBrief);
    } catch (error) {
      return { error: (error as Error).message };
    }
  }
}

/** @returns null if the line is not a JSON object */
function answerOf(line: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

function requestOf(line: string): {
  readonly request?: unknown;
  readonly readOnly?: unknown;
  readonly brief?: unknown;
} {
  try {
    return Object(JSON.parse(line));
  } catch {
    return {};
  }
}

function answer(socket: Socket, value: unknown): void {
  socket.write(`${JSON.stringify(value)}\n`);
}

function readLines(socket: Socket, limit: number, onLine: (line: string) => void): void {
  let pending = '';
  socket.setEncoding('utf8');
  socket.on('data', (chunk: string) => {
    pending += chunk;
    for (let end = pending.indexOf('\n'); end >= 0; end = pending.indexOf('\n')) {
      const line = pending.slice(0, end);
      pending = pending.slice(end + 1);
      if (line !== '') onLine(line);
    }
    if (pending.length > limit) socket.destroy();
  });
}

/** A connection to the control socket of a mount. */
export class ControlClient {
  private readonly socket: Socket;
  private onLine: ((value: Record<string, unknown>) => void)[] = [];
  private onEnd: (() => void)[] = [];

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('error', () => {});
    socket.on('close', () => {
      for (const call of this.onEnd) call();
    });
    readLines(socket, ANSWER_MAX, (line) => this.receive(line));
  }

  /** @returns null if no process listens there */
  static connect(path: string): Promise<ControlClient | null> {
    return new Promise((resolve) => {
      const socket = connect(path);
      socket.once('error', () => resolve(null));
      socket.once('connect', () => {
        socket.removeAllListeners('error');
        resolve(new ControlClient(socket));
      });
    });
  }

  /**
   * The status of the mount; null if the process ends or does not answer in time.
   * @param isBrief without a look at the partitions, which takes time
   */
  status(isBrief: boolean, timeoutMs = 5000): Promise<Record<string, unknown> | null> {
    this.send({ request: 'status', brief: isBrief });
    return this.next((value) => !('closed' in value || 'remounted' in value), timeoutMs);
  }

  /** Resolves when the process has read what was sent before; also if it ends, or is older and does not know the request. */
  async hello(timeoutMs = 5000): Promise<void> {
    this.send({ request: 'hello' });
    await this.next((value) => !('closed' in value || 'remounted' in value), timeoutMs);
  }

  /** Registers for the end of the mount. @returns a promise of the result; null if the process ends without one */
  wait(): Promise<CloseResult | null> {
    this.send({ request: 'wait' });
    return this.next((value) => value['closed'] === true, 0) as Promise<CloseResult | null>;
  }

  /** Waits without a limit until the remount is done. @returns null if the process ends without an answer */
  remount(readOnly: boolean): Promise<RemountResult | null> {
    this.send({ request: 'remount', readOnly });
    return this.next((value) => 'remounted' in value, 0) as Promise<RemountResult | null>;
  }

  close(): void {
    this.socket.destroy();
  }

  private send(request: Readonly<Record<string, unknown>>): void {
    this.socket.write(`${JSON.stringify(request)}\n`);
  }

  private receive(line: string): void {
    const value = answerOf(line);
    if (value === null) return;
    for (const call of this.onLine) call(value);
  }

  private next(
    matches: (value: Record<string, unknown>) => boolean,
    timeoutMs: number,
  ): Promise<Record<string, unknown> | null> {
    return new Promise((resolve) => {
      const timer = timeoutMs > 0 ? setTimeout(() => resolve(null), timeoutMs) : undefined;
      const settle = (value: Record<string, unknown> | null): void => {
        clearTimeout(timer);
        resolve(value);
      };
      if (this.socket.destroyed) settle(null);
      this.onLine.push((value) => {
        if (matches(value)) settle(value);
      });
      this.onEnd.push(() => settle(null));
    });
  }
}
