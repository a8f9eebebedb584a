// What tells a Bochs image from any other file. Every file is probed for it, so this file imports no engine.

export const HEADER_MAGIC = 'Bochs Virtual HD Image';
