// Names of files as text that loses nothing. A Linux name is any bytes; text is UTF-8 for nearly all of them. Each byte that is
// not UTF-8 becomes the lone surrogate U+DC00 + byte (Python's surrogateescape), so bytesOfName() gives back what
// nameOfBytes() was given, and JSON carries such a name as an escape.

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const ESCAPE = 0xdc00;

/** The name that `bytes` are; a byte-order mark is part of it. */
export function nameOfBytes(bytes: Uint8Array): string {
  return decode(bytes) ?? escapeInvalid(bytes);
}

function decode(bytes: Uint8Array): string | null {
  try {
    return strict.decode(bytes);
  } catch {
    return null;
  }
}

function escapeInvalid(bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at < bytes.length; ) {
    const length = sequenceLength(bytes[at]!);
    const character = at + length > bytes.length ? null : decode(bytes.subarray(at, at + length));
    text += character ?? String.fromCharCode(ESCAPE + bytes[at]!);
    at += character === null ? 1 : length;
  }
  return text;
}

/** Bytes of the UTF-8 sequence that a first byte announces; whether it is one, the decoder says. */
function sequenceLength(first: number): number {
  if (first < 0xc0) return 1;
  if (first < 0xe0) return 2;
  return first < 0xf0 ? 3 : 4;
}

/** The bytes of a name. */
export function bytesOfName(name: string): Uint8Array<ArrayBuffer> {
  const encoder = new TextEncoder();
  if (name.isWellFormed()) return encoder.encode(name);
  const bytes: number[] = [];
  for (const character of name) {
    const byte = escapedByte(character);
    if (byte === null) bytes.push(...encoder.encode(character));
    else bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}

/** The byte that a character of a name stands for; null for a character that is itself. */
export function escapedByte(character: string): number | null {
  const byte = character.charCodeAt(0) - ESCAPE;
  return character.length === 1 && byte >= 0x80 && byte <= 0xff ? byte : null;
}

/** A name as node:fs takes it: text, or the bytes where text would become others. */
export function hostPath(name: string): string | Buffer {
  return name.isWellFormed() ? name : Buffer.from(bytesOfName(name).buffer);
}

/** A name as a C function takes it. */
export function nulTerminated(name: string): string | Buffer {
  return name.isWellFormed() ? name : Buffer.concat([bytesOfName(name), Buffer.alloc(1)]);
}
