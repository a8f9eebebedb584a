// Names of files as Windows writes them into a VHD or VHDX, as names of this machine.

/** A Windows path as one of this machine, without its drive or volume. */
export function fromWindowsPath(name: string): string {
  const path = name.replaceAll('\\', '/').replace(/^\/\/\?\//, '');
  return path.replace(/^(?:[A-Za-z]:|Volume\{[0-9A-Fa-f-]*\}(?=\/))/, '');
}

/** Without "./", unless what follows would be taken for a protocol. */
export function withoutDot(name: string): string {
  const bare = name.replace(/^(\.\/+)+/, '');
  return /^[^/]*:/.test(bare) ? `./${bare}` : bare;
}
