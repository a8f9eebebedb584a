// What tells a dmg image from any other file. Every file is probed for it, so this file imports no engine.

export const TRAILER_MAGIC = 'koly';
export const TRAILER_BYTES = 512;
