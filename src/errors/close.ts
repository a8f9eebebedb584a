// Closing several things: every one is closed whatever another says, and the error that is thrown is the first one. A close
// that fails is no reason to keep the locks of the others, nor to forget why they are closed.

export interface Closeable {
  close(): void;
}

/** Closes all, in order. @throws what the first failing close threw, when all have been closed */
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

/** Runs `action`, then closes what `opened` names by then. @throws the error of `action`, else that of the first failing close */
export function closingAfter<T>(opened: () => Iterable<Closeable>, action: () => T): T {
  const result = closingOnFailure(opened, action);
  closeAll(opened());
  return result;
}

/** Runs `action`; when it throws, closes what `opened` names by then. @throws the error of `action` */
export function closingOnFailure<T>(opened: () => Iterable<Closeable>, action: () => T): T {
  try {
    return action();
  } catch (error) {
    closeQuietly(opened());
    throw error;
  }
}

/** For a caller that has an error to throw, next to which a failing close says nothing of interest. */
export function closeQuietly(closeables: Iterable<Closeable>): void {
  try {
    closeAll(closeables);
  } catch {
    // all of them are closed, as far as they can be; the caller throws what went wrong first
  }
}
