// What tells a Parallels image from any other file. Every file is probed for it, so this file imports no engine.

import { XML_STARTS } from '../file-ends.ts';

export const HEADER_MAGIC = 'WithoutFreeSpace';
export const HEADER_MAGIC2 = 'WithouFreSpacExt';
export const DESCRIPTOR_ROOT = 'Parallels_disk_image';
/** With a declaration, behind a byte-order mark, and without both. */
export const DESCRIPTOR_MAGICS = [...XML_STARTS, `<${DESCRIPTOR_ROOT}`] as const;
export const DESCRIPTOR_FILE = 'DiskDescriptor.xml';
