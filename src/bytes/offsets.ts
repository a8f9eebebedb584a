// Guest and host offsets as distinct types, and the arithmetic on 64-bit numbers that JavaScript numbers allow.
// Invariant: every offset, size and count is a safe integer >= 0; larger values are refused where they are decoded.

declare const guestBrand: unique symbol;
declare const hostBrand: unique symbol;
declare const guestClusterBrand: unique symbol;
declare const hostClusterBrand: unique symbol;

/** Byte offset on the virtual disk, as the guest sees it. */
export type GuestOffset = number & { readonly [guestBrand]: true };
/** Byte offset in an image file on the host. */
export type HostOffset = number & { readonly [hostBrand]: true };
/** Number of a cluster of the virtual disk: 0 begins at guest offset 0. */
export type GuestCluster = number & { readonly [guestClusterBrand]: true };
/** Number of a cluster of an image file: 0 begins at host offset 0. */
export type HostCluster = number & { readonly [hostClusterBrand]: true };

/** The unit of disks: a disk keeps or loses a sector as a whole. */
export const SECTOR_BYTES = 512;
/** Largest virtual size (8 PiB - 1 byte is the largest safe integer; sizes are multiples of 512, so 8 PiB - 512). */
export const MAX_VIRTUAL_SIZE = 2 ** 53 - 512;

export function guestOffset(value: number): GuestOffset {
  return value as GuestOffset;
}

export function hostOffset(value: number): HostOffset {
  return value as HostOffset;
}

/**
 * What a field of a reused object holds before its first number, if that may be above 2^31. With 0 there, V8 compiles whatever uses the
 * object for small integers, and all of it anew at the first large one: a tenth of a second in each thread.
 */
export const UNSET = hostOffset(Number.NaN);

export function guestCluster(value: number): GuestCluster {
  return value as GuestCluster;
}

export function hostCluster(value: number): HostCluster {
  return value as HostCluster;
}

/** The place `distance` bytes (or clusters) further on, on the same disk or in the same file. */
export function after<Place extends GuestOffset | HostOffset | GuestCluster | HostCluster>(
  place: Place,
  distance: number,
): Place {
  return (place + distance) as Place;
}

export function isSafeOffset(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}

export function isPowerOfTwo(value: number): boolean {
  // log2 alone takes 2^50 + 1 for a power of two
  return Number.isSafeInteger(value) && value > 0 && 2 ** Math.round(Math.log2(value)) === value;
}

/** `value % unit` for a power of two, without the call of fmod that `%` becomes above 2^31. */
export function remainder(value: number, unit: number): number {
  return value - Math.floor(value / unit) * unit;
}

/** `value` rounded down to a multiple of `unit` (a positive integer). */
export function roundDown<Offset extends GuestOffset | HostOffset>(value: Offset, unit: number): Offset;
export function roundDown(value: number, unit: number): number;
export function roundDown(value: number, unit: number): number {
  return value - (value % unit);
}

/** `value` rounded up to a multiple of `unit` (a positive integer). */
export function roundUp<Offset extends GuestOffset | HostOffset>(value: Offset, unit: number): Offset;
export function roundUp(value: number, unit: number): number;
export function roundUp(value: number, unit: number): number {
  const rest = value % unit;
  return rest === 0 ? value : value + (unit - rest);
}

export function divideUp(value: number, unit: number): number {
  return Math.ceil(value / unit);
}

/** 0x-prefixed hexadecimal, as error messages and notes print offsets. */
export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
