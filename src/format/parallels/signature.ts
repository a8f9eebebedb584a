// What tells a Parallels image from any other file. Every file is probed for it, so this file imports no engine.

export const HEADER_MAGIC = 'WithoutFreeSpace';
export const HEADER_MAGIC2 = 'WithouFreSpacExt';
/** Of every XML document. */
export const DESCRIPTOR_MAGIC = '<?xml';
export const DESCRIPTOR_ROOT = 'Parallels_disk_image';
export const DESCRIPTOR_FILE = 'DiskDescriptor.xml';
