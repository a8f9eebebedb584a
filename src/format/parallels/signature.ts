// What tells a Parallels image from any other file. Every file is probed for it, so this file imports no engine.

export const HEADER_MAGIC = 'WithoutFreeSpace';
export const HEADER_MAGIC2 = 'WithouFreSpacExt';
export const DESCRIPTOR_ROOT = 'Parallels_disk_image';
/** With a declaration, behind a byte-order mark, and without both. */
export const DESCRIPTOR_MAGICS = ['<?xml', '\xef\xbb\xbf<', `<${DESCRIPTOR_ROOT}`] as const;
export const DESCRIPTOR_FILE = 'DiskDescriptor.xml';
