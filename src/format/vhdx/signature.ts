// What tells a VHDX image from any other file. Every file is probed for it, so this file imports no engine.

export const FILE_SIGNATURE = 'vhdxfile';
