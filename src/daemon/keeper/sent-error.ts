// An error on its way from the keeper thread to the main thread: what a message can carry of it. The class of an error does not
// survive a message, so an ImgfuseError is made anew from its parts, its causes included.

import { type ErrorContext, type ErrorKind, ImgfuseError } from '../../errors/index.ts';

/** Structured-clonable. */
export interface SentError {
  /** null: a bug, and not thrown on purpose */
  readonly kind: ErrorKind | null;
  /** of Node's own errors, by which a shortage is known */
  readonly name: string;
  readonly code: unknown;
  readonly message: string;
  readonly context: ErrorContext;
  readonly stack: string;
  readonly cause: SentError | null;
}

export function sendError(error: unknown): SentError {
  if (!(error instanceof Error)) return sendError(new Error(String(error)));
  const { message, stack, name, code } = error as NodeJS.ErrnoException;
  return {
    message,
    name,
    code,
    stack: stack ?? message,
    kind: error instanceof ImgfuseError ? error.kind : null,
    context: error instanceof ImgfuseError ? error.context : {},
    cause: error.cause === undefined ? null : sendError(error.cause),
  };
}

export function receiveError({ kind, message, name, code, context, stack, cause }: SentError): Error {
  const reason = cause === null ? undefined : receiveError(cause);
  if (kind !== null) return Object.assign(new ImgfuseError(kind, message, context, reason), { stack });
  const error = name === 'RangeError' ? new RangeError(message) : new Error(message);
  return Object.assign(
    error,
    { stack },
    code === undefined ? {} : { code },
    reason === undefined ? {} : { cause: reason },
  );
}
