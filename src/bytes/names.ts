// Names of files as text that loses nothing. A Linux name is any bytes; text is UTF-8 for nearly all of them. Each byte that is
// not UTF-8 becomes the lone surrogate U+DC00 + byte (Python's surrogateescape), so bytesOfName() gives back what
// nameOfBytes() was given, and JSON carries such a name as an escape.

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const ESCAPE = 0xdc00;

/** Units of text that are turned into a string at once: the arguments of one call. */
const CHUNK = 8192;

/** The name that `bytes` are; a byte-order mark is part of it. */
export function nameOfBytes(bytes: Uint8Array): string {
  try {
    return strict.decode(bytes);
  } catch {
    return escapeInvalid(bytes);
  }
}

/** Linear and without exceptions: an image may hold megabytes of such names. */
function escapeInvalid(bytes: Uint8Array): string {
  const units = new Uint16Array(bytes.length);
  let count = 0;
  for (let at = 0; at < bytes.length; ) {
    const length = sequenceLength(bytes, at);
    if (length === 0) {
      units[count++] = ESCAPE + bytes[at]!;
      at++;
      continue;
    }
    const point = codePoint(bytes, at, length);
    if (point > 0xffff) units[count++] = 0xd7c0 + (point >> 10);
    units[count++] = point > 0xffff ? 0xdc00 + (point & 0x3ff) : point;
    at += length;
  }
  let text = '';
  for (let start = 0; start < count; start += CHUNK) {
    text += String.fromCharCode(...units.subarray(start, Math.min(count, start + CHUNK)));
  }
  return text;
}

/** Bytes of the UTF-8 sequence at `at`; 0 if there is none (RFC 3629, section 4). */
function sequenceLength(bytes: Uint8Array, at: number): number {
  const first = bytes[at]!;
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4) return 0;
  const length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (at + length > bytes.length) return 0;
  // the second byte excludes overlong forms, surrogates, and characters above U+10FFFF
  const low = first === 0xe0 ? 0xa0 : first === 0xf0 ? 0x90 : 0x80;
  const high = first === 0xed ? 0x9f : first === 0xf4 ? 0x8f : 0xbf;
  if (bytes[at + 1]! < low || bytes[at + 1]! > high) return 0;
  for (let next = 2; next < length; next++) if ((bytes[at + next]! & 0xc0) !== 0x80) return 0;
  return length;
}

function codePoint(bytes: Uint8Array, at: number, length: number): number {
  if (length === 1) return bytes[at]!;
  let point = bytes[at]! & (0x7f >> length);
  for (let next = 1; next < length; next++) point = point * 64 + (bytes[at + next]! & 0x3f);
  return point;
}

/** The bytes of a name. */
export function bytesOfName(name: string): Uint8Array<ArrayBuffer> {
  const encoder = new TextEncoder();
  if (name.isWellFormed()) return encoder.encode(name);
  const bytes: number[] = [];
  for (const character of name) {
    const byte = escapedByte(character);
    if (byte !== null) bytes.push(byte);
    else for (const each of encoder.encode(character)) bytes.push(each);
  }
  return Uint8Array.from(bytes);
}

/** The byte that a character of a name stands for; null for a character that is itself. */
export function escapedByte(character: string): number | null {
  const byte = character.charCodeAt(0) - ESCAPE;
  return character.length === 1 && byte >= 0x80 && byte <= 0xff ? byte : null;
}

/** A name as node:fs takes it: text, or the bytes if text would not give the same bytes. */
export function hostPath(name: string): string | Buffer {
  return name.isWellFormed() ? name : Buffer.from(bytesOfName(name).buffer);
}

/** A name as a C function takes it. */
export function nulTerminated(name: string): string | Buffer {
  return name.isWellFormed() ? name : Buffer.concat([bytesOfName(name), Buffer.alloc(1)]);
}
