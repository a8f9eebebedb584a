// The test's handle on a range server (range-server.mjs): every call is synchronous, so that it fits between two reads.

import { MessageChannel, receiveMessageOnPort, Worker } from 'node:worker_threads';

/** What the next requests meet instead of their range; `from`: only a request for a range that begins there. */
export type Rule = { readonly times?: number; readonly from?: number } & (
  | { readonly do: 'status'; readonly code: number; readonly headers?: Readonly<Record<string, string>> }
  | { readonly do: 'redirect'; readonly to: string; readonly code?: number }
  /** 206 with these headers instead of the true ones; undefined takes one out */
  | { readonly do: 'headers'; readonly headers: Readonly<Record<string, string | readonly string[] | undefined>> }
  /** 200 with the whole file */
  | { readonly do: 'whole' }
  /** the connection is closed without an answer */
  | { readonly do: 'refuse' }
  /** never an answer */
  | { readonly do: 'silence' }
  /** the right range of a file that is not the one of If-Range */
  | { readonly do: 'ignore-if-range' }
  /** ten bytes more than the range */
  | { readonly do: 'more' }
  /** the connection ends after so many bytes of the body */
  | { readonly do: 'cut'; readonly after: number }
  /** one byte at a time */
  | { readonly do: 'drip'; readonly everyMs: number }
);

export interface SeenRequest {
  readonly url: string;
  readonly range: string | null;
  readonly ifRange: string | null;
}

export interface ServerSettings {
  readonly etag: string | null;
  readonly lastModified: string | null;
  readonly date: string | null;
  /** of all connections together; 0: no limit */
  readonly bytesPerSecond: number;
  /** the only path that exists; null: all of them are the file */
  readonly path: string | null;
  /** false: If-Range never matches */
  readonly honoursIfRange: boolean;
  /** added to every answer with the file */
  readonly headers: Readonly<Record<string, string>>;
}

export class RangeServer {
  readonly port: number;
  readonly origin: string;
  readonly #worker: Worker;

  constructor(content: Uint8Array, tls?: { readonly key: string; readonly cert: string }) {
    this.#worker = new Worker(new URL('./range-server.mjs', import.meta.url), { workerData: { content, tls } });
    this.#worker.unref();
    this.port = this.#call('listen', 0) as number;
    this.origin = `${tls === undefined ? 'http' : 'https'}://127.0.0.1:${this.port}`;
  }

  set(change: Partial<ServerSettings>): void {
    this.#call('set', change);
  }

  plan(...rules: Rule[]): void {
    this.#call('plan', rules);
  }

  /** Another file at the same place; its validators are the caller's affair. */
  replace(content: Uint8Array): void {
    this.#call('content', content);
  }

  /** These files, by their paths, and no other. */
  serve(files: Readonly<Record<string, Uint8Array>>): void {
    this.#call('files', Object.entries(files));
  }

  requests(): SeenRequest[] {
    return this.#call('requests') as SeenRequest[];
  }

  forget(): void {
    this.#call('forget');
  }

  /** Nobody listens any more, and every connection is cut. */
  goDown(): void {
    this.#call('stop');
  }

  comeBack(): void {
    this.#call('listen', this.port);
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }

  #call(command: string, argument?: unknown): unknown {
    const { port1, port2 } = new MessageChannel();
    const answered = new Int32Array(new SharedArrayBuffer(4));
    this.#worker.postMessage({ command, argument, port: port2, answered }, [port2]);
    if (Atomics.wait(answered, 0, 0, 20_000) === 'timed-out') throw new Error(`the test server does not ${command}`);
    const answer = receiveMessageOnPort(port1)?.message as unknown;
    port1.close();
    return answer;
  }
}
