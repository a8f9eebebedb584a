// GUIDs as bytes and as text. Invariant: text is in lower case.

/** A GUID of UEFI and Microsoft: its first three fields are little-endian. */
export function guidText(bytes: Uint8Array, offset: number): string {
  const order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
  return dashed(order.map((index) => bytes[offset + index]!));
}

/** A UUID of everybody else: bytes in the order in which they are written. */
export function uuidText(bytes: Uint8Array, offset: number): string {
  return dashed(Array.from(bytes.subarray(offset, offset + 16)));
}

function dashed(bytes: readonly number[]): string {
  const digits = bytes.map((byte) => byte.toString(16).padStart(2, '0')).join('');
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

export function isZero(bytes: Uint8Array, offset: number, length: number): boolean {
  return bytes.subarray(offset, offset + length).every((byte) => byte === 0);
}
