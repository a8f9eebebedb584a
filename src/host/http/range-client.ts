// One remote file read in ranges: redirects, time limits, and attempts with growing pauses. Used by the network thread.
// Invariant: every byte handed on belongs to the version that was opened (range-answer.ts).

import { setTimeout as delay } from 'node:timers/promises';
import { Agent, type Dispatcher, EnvHttpProxyAgent, request } from 'undici';
import { steadyMs } from '../../concurrency/clock.ts';
import { extraAuthorities } from './extra-authorities.ts';
import { FetchError, fetchErrorOf } from './fetch-error.ts';
import type { HttpLimits } from './limits.ts';
import { assertRange, ignoresIfRange, OLD_DATE_MS, single, type Version, versionOf } from './range-answer.ts';
import { folderOfUrl, isBelowUrl } from './url.ts';

const REDIRECTS = new Set([301, 302, 303, 307, 308]);
/** A remembered target of a redirect that answers so may have expired: the URL itself is asked again. */
const EXPIRED = new Set([400, 401, 403, 404, 410]);

/** Called with the bytes of a body in order; `offset` counts from the start of the range. */
export type Sink = (chunk: Uint8Array, offset: number) => void;

export interface ClientTraffic {
  requests: number;
  bytes: number;
  retries: number;
}

/** One for all files. A proxy comes from the environment, as other programs have it; certificates are always verified. */
export function createDispatcher(limits: HttpLimits): Dispatcher {
  const tls = { timeout: limits.connectMs, rejectUnauthorized: true, ...extraAuthorities() };
  const options = { connect: tls, headersTimeout: 0, bodyTimeout: 0 };
  const names = ['http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'];
  if (!names.some((name) => (process.env[name] ?? '') !== '')) return new Agent(options);
  return new EnvHttpProxyAgent({ ...options, requestTls: tls, proxyTls: tls, proxyTunnel: false });
}

export class RangeClient {
  readonly traffic: ClientTraffic = { requests: 0, bytes: 0, retries: 0 };
  private readonly url: URL;
  private readonly allowed: readonly URL[];
  private readonly limits: HttpLimits;
  private readonly dispatcher: Dispatcher;
  private readonly closing = new AbortController();
  /** target of the last redirect */
  private target: URL;
  private version: Version | null = null;
  /** false once the server has answered the whole file although nothing has changed: its validators are compared instead */
  private sendsIfRange = true;
  /** Last-Modified of the first answer that could not be used yet because of it, and when that was there */
  private youngDate: { readonly text: string; readonly seenMs: number } | null = null;

  /** @param allowed places that a redirect may lead to, beside the origin of the URL itself */
  constructor(url: URL, allowed: readonly URL[], limits: HttpLimits, dispatcher: Dispatcher) {
    this.url = url;
    this.target = url;
    this.allowed = allowed;
    this.limits = limits;
    this.dispatcher = dispatcher;
  }

  /** Reads the first block. @returns length of the file, and the block. Throws FetchError */
  async open(): Promise<{ length: number; head: Uint8Array }> {
    const { blockBytes, openAttempts } = this.limits;
    const head = new Uint8Array(blockBytes);
    await this.persist(
      openAttempts,
      () => false,
      async () => {
        // an attempt before may have told the length
        const end = Math.min(blockBytes, this.version?.length ?? blockBytes);
        await this.attempt(0, end, (chunk, offset) => head.set(chunk, offset));
      },
    );
    const { length } = this.version!;
    return { length, head: head.subarray(0, Math.min(length, blockBytes)) };
  }

  /**
   * Reads [start, end), which begins at a block; after a cut connection it goes on after the last whole block.
   * @param sink gets each byte at least once; `offset` counts from `start`
   * @throws FetchError after the last attempt; what the sink got by then is true
   */
  async read(start: number, end: number, sink: Sink): Promise<void> {
    const { attempts, blockBytes } = this.limits;
    let whole = start;
    let before = start;
    const progressed = (): boolean => {
      const more = whole > before;
      before = whole;
      return more;
    };
    await this.persist(attempts, progressed, async () => {
      const from = whole;
      await this.attempt(from, end, (chunk, offset) => {
        sink(chunk, from - start + offset);
        const done = from + offset + chunk.length;
        whole = done === end ? end : done - (done % blockBytes);
      });
    });
  }

  close(): void {
    this.closing.abort();
  }

  /** Repeats `action` while its errors are temporary; progress resets the number of attempts. */
  private async persist(attempts: number, progressed: () => boolean, action: () => Promise<void>): Promise<void> {
    const { backoffMs, giveUpMs } = this.limits;
    let failures = 0;
    let since = performance.now();
    for (;;) {
      try {
        return await action();
      } catch (thrown) {
        const error = fetchErrorOf(thrown);
        if (progressed()) {
          failures = 0;
          since = performance.now();
        }
        failures++;
        const pause = Math.max(error.pauseMs, backoffMs * 2 ** (failures - 1) * (0.75 + Math.random() / 2));
        const isLate = performance.now() + pause - since > giveUpMs;
        if (!error.isPassing || failures >= attempts || isLate || this.closing.signal.aborted) {
          throw failures === 1
            ? error
            : new FetchError(error.kind, `${error.message}, at the ${failures}. attempt in a row`);
        }
        this.traffic.retries++;
        await delay(pause, undefined, { signal: this.closing.signal });
      }
    }
  }

  /** One request and its redirects. Until the first one succeeds there is no version, and [start, end) may end beyond the file. */
  private async attempt(start: number, end: number, sink: Sink): Promise<void> {
    const stop = new AbortController();
    const { stallMs, blockBytes } = this.limits;
    const timer = setTimeout(() => stop.abort(), stallMs);
    let body: Dispatcher.ResponseData['body'] | null = null;
    try {
      const signal = AbortSignal.any([stop.signal, this.closing.signal]);
      const askedMs = steadyMs();
      let answer = await this.follow(start, end, signal);
      if (
        this.version !== null &&
        this.sendsIfRange &&
        ignoresIfRange(answer.statusCode, answer.headers, this.version)
      ) {
        this.sendsIfRange = false;
        discard(answer);
        answer = await this.follow(start, end, signal);
      }
      body = answer.body;
      const last = this.judge(answer, start, end, askedMs);
      timer.refresh();
      let at = start;
      for await (const chunk of body as AsyncIterable<Uint8Array>) {
        if (chunk.length > last - at)
          throw new FetchError('io', 'cannot be read: its server sends more than it announced');
        this.traffic.bytes += chunk.length;
        sink(chunk, at - start);
        // a server that sends single bytes is as good as silent: only a whole block counts
        if (Math.floor((at + chunk.length) / blockBytes) > Math.floor(at / blockBytes)) timer.refresh();
        at += chunk.length;
      }
      if (at < last) throw new FetchError('io', `cannot be read: the answer ends ${last - at} bytes too early`, true);
    } catch (error) {
      if (!stop.signal.aborted) throw error;
      throw new FetchError('io', `cannot be read: its server sent too little in ${stallMs / 1000} seconds`, true);
    } finally {
      clearTimeout(timer);
      body?.on('error', () => {}).destroy();
    }
  }

  /** @param askedMs when the request was sent @returns where the body ends */
  private judge({ statusCode, headers }: Dispatcher.ResponseData, start: number, end: number, askedMs: number): number {
    if (this.version === null) {
      const { youngDate } = this;
      const isOld = youngDate !== null && askedMs - youngDate.seenMs >= OLD_DATE_MS;
      const text = single(headers, 'last-modified');
      if (text !== null && youngDate?.text !== text) this.youngDate = { text, seenMs: steadyMs() };
      this.version = versionOf(statusCode, headers, end, isOld ? youngDate.text : null);
    } else {
      const isConditional = this.sendsIfRange && this.version.ifRange !== null;
      assertRange(statusCode, headers, { start, end, isConditional }, this.version);
    }
    return Math.min(end, this.version.length);
  }

  private async follow(start: number, end: number, signal: AbortSignal): Promise<Dispatcher.ResponseData> {
    // other requests of this file are under way at the same time, and share nothing but the result
    let target = this.target;
    for (let hops = 0; ; hops++) {
      const answer = await this.ask(target, start, end, signal);
      const { statusCode, headers } = answer;
      const isExpired = EXPIRED.has(statusCode) && hops === 0 && target !== this.url;
      if (!REDIRECTS.has(statusCode) && !isExpired) {
        this.target = target;
        return answer;
      }
      discard(answer);
      if (hops >= this.limits.redirects) {
        throw new FetchError('io', `cannot be used: it is redirected more than ${this.limits.redirects} times`);
      }
      target = isExpired ? this.url : this.redirected(target, single(headers, 'location'));
    }
  }

  private redirected(from: URL, location: string | null): URL {
    if (location === null || !URL.canParse(location, from.href)) {
      throw new FetchError('io', 'cannot be used: it is redirected without a place to go to');
    }
    const to = new URL(location, from);
    if (to.origin === this.url.origin || this.allowed.some((place) => isBelowUrl(to, place))) return to;
    throw new FetchError(
      'permission',
      `is not read: it is redirected to ${to.origin}, and nobody allowed that; add --allow-backing ${folderOfUrl(to).href}`,
    );
  }

  private ask(url: URL, start: number, end: number, signal: AbortSignal): Promise<Dispatcher.ResponseData> {
    this.traffic.requests++;
    const ifRange = this.version?.ifRange ?? null;
    return request(url, {
      dispatcher: this.dispatcher,
      signal,
      headers: {
        range: `bytes=${start}-${end - 1}`,
        'accept-encoding': 'identity',
        'user-agent': 'imgfuse',
        ...(this.sendsIfRange && ifRange !== null ? { 'if-range': ifRange } : {}),
      },
    });
  }
}

/** Cuts the connection: the rest of the answer is not fetched. */
function discard({ body }: Dispatcher.ResponseData): void {
  body.on('error', () => {}).destroy();
}
