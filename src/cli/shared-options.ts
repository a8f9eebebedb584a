// Options that mount has in common with the commands that look at an image. mount must start fast, so this file loads nothing.

import type { Option, Options } from './command.ts';

export const NO_LOCK = {
  type: 'boolean',
  description: 'take no image locks, for file systems without them; other programs are not kept out',
} as const satisfies Option;

export const KEY_OPTIONS = {
  'key-file': {
    type: 'string',
    placeholder: 'FILE',
    description: 'file with the password of an encrypted image, byte for byte ("-": standard input)',
  },
  'key-env': {
    type: 'string',
    placeholder: 'VARIABLE',
    description: 'environment variable with the password; default: ask at the terminal',
  },
} as const satisfies Options;

/** One password serves every image of a chain. */
export const KEY_EXCLUDES = [['key-file', 'key-env']] as const;
