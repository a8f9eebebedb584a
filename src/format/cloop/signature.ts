// What tells a cloop image from any other file. Every file is probed for it, so this file imports no engine.

export const HEADER_MAGIC = '#!/bin/sh\n#V2.0 Format';
