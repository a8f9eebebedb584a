// Names and options shared by several commands on image files.

import { formats, type LockMode } from '../disk/index.ts';
import { ImgfuseError } from '../errors/index.ts';
import { canonicalPath } from '../host/canonical-path.ts';
import type { Name, Option } from './command.ts';

export const IMAGE_NAME: Name = { name: 'image', description: 'the disk image' };

export const ALLOW_BACKING = {
  type: 'string',
  multiple: true,
  placeholder: 'DIR',
  description:
    "a directory that backing files may lie in, beside the image's own, a file or block device that may be one, or a URL that " +
    'they may lie at or below (repeatable)',
} as const satisfies Option;

export const ANY_PARENT = {
  type: 'boolean',
  description: 'use a backing file even if it is not the image that the overlay was made on',
} as const satisfies Option;

export const FORMAT = {
  type: 'string',
  short: 'f',
  choices: formats.map(({ name }) => name),
  spellings: Object.fromEntries(formats.flatMap(({ name, aliases = [] }) => aliases.map((alias) => [alias, name]))),
  description: 'image format; default: the content of the file decides',
} as const satisfies Option;

export const FORCE_SHARE = {
  type: 'boolean',
  short: 'U',
  description: 'read the image even if another program is writing to it; the result may be out of date',
} as const satisfies Option;

/** The kind of locks that the options of a command ask for. */
export function lockMode(args: { readonly 'force-share'?: boolean; readonly 'no-lock'?: boolean }): LockMode {
  if (args['no-lock'] === true) return 'none';
  return args['force-share'] === true ? 'share' : 'take';
}

/** Runs an action that only reads an image. If a lock refuses it, the error names the option that reads in spite of the lock. */
export function lookAt<T>(look: () => T): T {
  try {
    return look();
  } catch (error) {
    if (!(error instanceof ImgfuseError) || error.kind !== 'busy') throw error;
    throw new ImgfuseError('busy', `${error.message}; -U reads it anyway`, error.context, error.cause);
  }
}

/** Absolute paths with the directories as typed. URLs stay as they are. */
export function directories(typed: readonly string[] | undefined): string[] {
  return (typed ?? []).map((directory) => canonicalPath(directory));
}
