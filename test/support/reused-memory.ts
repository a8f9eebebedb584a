// Shared memory that is used again. An image takes a dozen shared buffers, some with megabytes of address space to grow into, and
// a suite that opens thousands of images a second spends most of its time on mapping and unmapping them. A buffer comes back as
// a new one would be, but that one that may grow keeps the length it had grown to.

/** Larger ones are rare, and clearing them costs more than the kernel does. */
const LARGEST = 1024 * 1024;
/** the map of free blocks of a VHD of 2 TiB takes 34 MiB */
const MOST_ADDRESS_SPACE = 64 * 1024 * 1024;

const Native = SharedArrayBuffer;
const spare = new Map<string, SharedArrayBuffer[]>();
let taken: SharedArrayBuffer[] | null = null;

/**
 * Runs `act`. The shared buffers that it makes are used again by later calls: whoever keeps one, or an image that uses it, reads
 * what others write. Calls may be nested; `act` ends before it returns.
 */
export function reusingSharedMemory<Result>(act: () => Result): Result {
  const outer = taken;
  const own: SharedArrayBuffer[] = [];
  taken = own;
  try {
    return act();
  } finally {
    taken = outer;
    own.forEach(keep);
  }
}

globalThis.SharedArrayBuffer = new Proxy(Native, {
  construct(_, [length, options]: [number, { readonly maxByteLength: number }?]) {
    const most = options?.maxByteLength ?? length;
    if (taken === null || length > LARGEST || most > MOST_ADDRESS_SPACE) return new Native(length, options);
    const known = spare.get(nameOf(most, options !== undefined))?.pop();
    const buffer = known === undefined ? new Native(length, options) : cleared(known, length);
    taken.push(buffer);
    return buffer;
  },
});

function cleared(buffer: SharedArrayBuffer, length: number): SharedArrayBuffer {
  // a Buffer is cleared at once, a Uint8Array of shared memory byte by byte
  Buffer.from(buffer).fill(0);
  if (buffer.byteLength < length) buffer.grow(length);
  return buffer;
}

function keep(buffer: SharedArrayBuffer): void {
  if (buffer.byteLength > LARGEST) return;
  const name = nameOf(buffer.maxByteLength, buffer.growable);
  const kept = spare.get(name);
  if (kept === undefined) spare.set(name, [buffer]);
  else kept.push(buffer);
}

function nameOf(most: number, mayGrow: boolean): string {
  return `${most}${mayGrow ? ' growable' : ''}`;
}
