// Why a request for a range failed, inside the network thread; readers get it as an ImgfuseError.

import type { ErrorKind } from '../../errors/index.ts';

export class FetchError extends Error {
  readonly kind: ErrorKind;
  /** the same request may succeed a little later */
  readonly isPassing: boolean;
  /** how long the server asks to be left alone, in ms */
  readonly pauseMs: number;

  /** @param reason continues a sentence that begins with the URL: "answers 404 Not Found" */
  constructor(kind: ErrorKind, reason: string, isPassing = false, pauseMs = 0) {
    super(reason);
    this.kind = kind;
    this.isPassing = isPassing;
    this.pauseMs = pauseMs;
  }
}

/** The base has changed; bytes of the new version are never mixed with those of the old one. */
export function changed(what: string): FetchError {
  return new FetchError(
    'io',
    `has changed since it was opened (${what}); nothing of the new version is used. Put the old version back, or close ` +
      'everything that uses it and open it anew',
  );
}

const NETWORK_REASONS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'its server refuses the connection',
  ECONNRESET: 'the connection was cut',
  UND_ERR_SOCKET: 'the connection was cut',
  EPIPE: 'the connection was cut',
  ENOTFOUND: 'its server has no address',
  EAI_AGAIN: 'the name service does not answer',
  EHOSTUNREACH: 'its server cannot be reached',
  ENETUNREACH: 'its server cannot be reached',
  ETIMEDOUT: 'the connection timed out',
  UND_ERR_CONNECT_TIMEOUT: 'its server does not take the connection in time',
  UND_ERR_HEADERS_OVERFLOW: 'the head of the answer is too long',
};

/** For an error that undici, TLS or a socket threw. */
export function fetchErrorOf(error: unknown): FetchError {
  if (error instanceof FetchError) return error;
  const { code, message } = error as { code?: unknown; message?: unknown };
  const name = typeof code === 'string' ? code : '';
  if (/CERT|SELF_SIGNED|TLS_/.test(name)) {
    return new FetchError(
      'permission',
      `is not read: the certificate of its server is not trusted (${name}: ${String(message)}); ` +
        'NODE_EXTRA_CA_CERTS names a file with further authorities',
    );
  }
  const reason = NETWORK_REASONS[name];
  if (reason !== undefined) return new FetchError('io', `cannot be read: ${reason}`, true);
  return new FetchError('io', `cannot be read: ${name === '' ? '' : `${name}: `}${String(message ?? error)}`, true);
}
