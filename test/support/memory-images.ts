// Images in memory for model tests: created, opened and reopened without a host file.

import { ImgfuseError } from '../../src/errors/index.ts';
import type { CheckReport } from '../../src/format/check-report.ts';
import type {
  CheckOptions,
  ClosedFacts,
  Image,
  ImageFormat,
  ParentFacts,
  ParentIdentity,
  ReadableImage,
  WritableFormat,
} from '../../src/format/image-format.ts';
import type { HostFile } from '../../src/host/host-file.ts';
import { MemoryHostFile } from './memory-file.ts';

export interface OpenMemoryOptions {
  readonly readOnly?: boolean;
  /** as a backing file is opened */
  readonly isLazy?: boolean;
  readonly backing?: ReadableImage | null;
  readonly tableCacheBytes?: number;
  readonly slots?: number;
  readonly log?: (sentence: string) => void;
  readonly password?: string;
  readonly dataFile?: HostFile | undefined;
  /** files that the image names, by the ends of their paths; a single one has any name */
  readonly beside?: readonly HostFile[];
  readonly closedFacts?: ClosedFacts | undefined;
  readonly committedFrom?: ParentIdentity | undefined;
  readonly wantsSnapshots?: boolean;
}

/** Opens `file` with everything a test does not care about filled in. */
export function openImage<Opened extends Image>(
  format: ImageFormat<Opened>,
  file: HostFile,
  options: OpenMemoryOptions = {},
): Opened {
  return format.open(file, {
    readOnly: options.readOnly ?? false,
    openBacking: () => {
      if (options.backing == null) throw new Error('the test gave no backing image');
      return options.backing;
    },
    ...besideIt(options.beside ?? (options.dataFile === undefined ? [] : [options.dataFile])),
    log: options.log ?? (() => undefined),
    ...(options.password === undefined ? {} : { password: () => new TextEncoder().encode(options.password) }),
    tableCacheBytes: options.tableCacheBytes ?? 64 * 1024,
    slots: options.slots ?? 1,
    probed: false,
    isLazy: options.isLazy,
    closedFacts: options.closedFacts,
    committedFrom: options.committedFrom,
    wantsSnapshots: options.wantsSnapshots,
  });
}

/** What finds the files that an image has beside its own: by the ends of their paths, and a single one by any name. */
export function besideIt(files: readonly HostFile[]): Pick<CheckOptions, 'openExtent'> {
  if (files.length === 0) return {};
  return {
    openExtent: (name) => {
      const file = files.length === 1 ? files[0] : files.find(({ path }) => path.endsWith(`/${name}`));
      if (file === undefined) throw new ImgfuseError('missing', `${name} does not exist`, { path: name });
      return file;
    },
  };
}

/** The check of a format that has one. */
export function checkImage(format: ImageFormat, file: HostFile, options: CheckOptions): CheckReport {
  if (format.check === undefined) throw new Error(`${format.name} has no check`);
  return format.check(file, options);
}

/** Of formats that know their parent by one word: a CID, a GUID. */
const PARENT_WORDS: Readonly<Record<string, string>> = {
  vmdk: '1a2b3c4d',
  vhdx: '66666666-7777-4888-9999-aaaaaaaaaaaa',
};

/** A new image of `size` bytes in memory. */
export function createMemoryImage(
  format: WritableFormat,
  size: number,
  options: Readonly<Record<string, string>> = {},
  backingName?: string,
  more: {
    readonly dataFile?: MemoryHostFile;
    readonly password?: string | undefined;
    readonly parentIdentity?: string | undefined;
  } = {},
): MemoryHostFile {
  const { dataFile, parentIdentity = PARENT_WORDS[format.name], password } = more;
  const file = new MemoryHostFile();
  format.create(file, {
    size,
    options: new Map(Object.entries(options)),
    ...(dataFile === undefined ? {} : { createExtent: () => dataFile }),
    ...(password === undefined ? {} : { password: () => new TextEncoder().encode(password) }),
    ...(backingName === undefined
      ? {}
      : { backing: { name: backingName }, parent: factsOfParent(backingName, size, parentIdentity) }),
  });
  return file;
}

/** What a child stores of an image that the tests put below it; only a test that gives an identity compares it. */
export function factsOfParent(
  path: string,
  virtualSize: number,
  identity = '11111111-2222-4333-8444-555555555555 66666666-7777-4888-9999-aaaaaaaaaaaa',
): ParentFacts {
  return { path, format: 'raw', virtualSize, identity, modifiedMs: null };
}
