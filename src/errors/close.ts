// Closing several things: each is closed even if another close fails, and the first error is thrown. A close that fails must
// neither keep the locks of the others nor hide the error that led to the closing.

export interface Closeable {
  close(): void;
}

/** Closes all, in order. @throws the error of the first close that failed, after all have been closed */
export function closeAll(closeables: Iterable<Closeable>): void {
  let first: { readonly error: unknown } | null = null;
  for (const closeable of closeables) {
    try {
      closeable.close();
    } catch (error) {
      first ??= { error };
    }
  }
  if (first !== null) throw first.error;
}

/** Runs `action`, then closes all in `opened`. @throws the error of `action`, else that of the first failing close */
export function closingAfter<T>(opened: () => Iterable<Closeable>, action: () => T): T {
  const result = closingOnFailure(opened, action);
  closeAll(opened());
  return result;
}

/** Runs `action`; if it throws, closes all in `opened`. @throws the error of `action` */
export function closingOnFailure<T>(opened: () => Iterable<Closeable>, action: () => T): T {
  try {
    return action();
  } catch (error) {
    closeQuietly(opened());
    throw error;
  }
}

/** For a caller that has a more important error to throw than that of a failing close. */
export function closeQuietly(closeables: Iterable<Closeable>): void {
  try {
    closeAll(closeables);
  } catch {
    // all are closed as far as possible; the caller throws the error that came first
  }
}
