// What a long open tells of itself, for whoever waits for it.

/** What an open is doing that may take long: for whoever waits for it. */
export interface OpenStep {
  /** such as "checking disk.qcow2" */
  readonly doing: string;
  /** how much of it is done, 0 to 1, where that is known */
  readonly fraction?: number;
}

/** What tells how much of one step of an open is done. */
export function progressOf(
  doing: string,
  progress: ((step: OpenStep) => void) | undefined,
): { readonly progress?: (fraction: number) => void } {
  if (progress === undefined) return {};
  progress({ doing, fraction: 0 });
  return { progress: (fraction) => progress({ doing, fraction }) };
}
