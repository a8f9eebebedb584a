// Labels of file systems as text. Invariant: hostile bytes become U+FFFD, and what is left has no spaces or NULs at its end.

const utf8 = new TextDecoder('utf-8', { ignoreBOM: true });
const utf16 = new TextDecoder('utf-16le', { ignoreBOM: true });

/** Up to the first NUL; null if nothing is left. */
export function labelText(bytes: Uint8Array): string | null {
  const end = bytes.indexOf(0);
  return trimmed(utf8.decode(end < 0 ? bytes : bytes.subarray(0, end)));
}

/** UTF-16 as Windows stores it, up to the first NUL. */
export function wideLabelText(bytes: Uint8Array): string | null {
  const [text] = utf16.decode(bytes).split('\0', 1);
  return trimmed(text!);
}

function trimmed(text: string): string | null {
  const label = text.replace(/ +$/, '');
  return label === '' ? null : label;
}
