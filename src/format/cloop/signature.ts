// What tells a cloop image from any other file. Every file is probed for it, so this file imports no engine.

export const HEADER_MAGIC = '#!/bin/sh\n#V2.0 Format';
/** Of every version. */
export const SCRIPT_START = '#!/bin/sh\n#V';
export const ANY_VERSION = /^#!\/bin\/sh\n#V(\d+\.\d+) Format/;
