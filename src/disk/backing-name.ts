// What the name of a backing file or data file stands for. QEMU's rule: a colon before the first slash ends the name of a
// protocol, so a file with such a name is written "./a:b". Names of the form json:{...} are QEMU's options of a block device;
// if they say only a driver and a local file, as libvirt and QEMU write them, that file is meant.

import { isUrl } from '../host/http/url.ts';
import { rawFormat } from './registry.ts';

export type NameMeaning =
  /** format: of a json: name; the format that the image stores outranks it */
  | { readonly kind: 'file'; readonly path: string; readonly format?: string }
  | { readonly kind: 'url'; readonly url: string }
  /** why: what is wrong with it, as the rest of a sentence after "the backing file 'NAME'" */
  | { readonly kind: 'other'; readonly why: string };

const JSON_PREFIX = 'json:';
const NOTHING_ELSE = 'is no plain file and no http or https URL, and nothing else is opened';

/** Whether QEMU takes the start of the name for a protocol: "nbd:", "fuse:", "a:b". */
export function hasProtocol(name: string): boolean {
  return /^[^/]*:/.test(name);
}

export function meaningOfName(name: string): NameMeaning {
  if (isUrl(name)) return { kind: 'url', url: name };
  if (name.startsWith(JSON_PREFIX)) return meaningOfJson(name.slice(JSON_PREFIX.length));
  if (!hasProtocol(name)) return { kind: 'file', path: name };
  return { kind: 'other', why: NOTHING_ELSE };
}

/** The options that are taken; QEMU takes "file": {"filename": ...} and "file.filename": ... alike. */
const OPTIONS = ['driver', 'filename', 'file.driver', 'file.filename'] as const;
type Option = (typeof OPTIONS)[number];

function meaningOfJson(text: string): NameMeaning {
  const options = readOptions(text);
  if (typeof options === 'string') return other(options);
  const { driver, filename, 'file.driver': fileDriver, 'file.filename': fileName } = options;
  if (isHostDriver(driver)) {
    // the protocol itself: the bytes of the file are the disk
    if (filename === undefined || fileDriver !== undefined || fileName !== undefined)
      return other('names no single file');
    return fileOf(filename, rawFormat.name);
  }
  if (filename !== undefined) return other("has 'filename', which only the driver 'file' takes");
  if (fileName === undefined) return other('names no file');
  if (fileDriver === undefined && hasProtocol(fileName)) return other(`names '${fileName}', which is no plain file`);
  if (fileDriver !== undefined && !isHostDriver(fileDriver)) return other(`has the file driver '${fileDriver}'`);
  return fileOf(fileName, driver);
}

/** QEMU's drivers for a regular file and for a block device of this machine. */
function isHostDriver(driver: string | undefined): boolean {
  return driver === 'file' || driver === 'host_device';
}

function fileOf(path: string, format: string | undefined): NameMeaning {
  if (path === '' || path.includes('\0') || !path.isWellFormed()) return other('has a file name that is none');
  return { kind: 'file', path, ...(format === undefined ? {} : { format }) };
}

function other(what: string): NameMeaning {
  return {
    kind: 'other',
    why: `${what}; of json: names those are opened that say a driver and a local file, and nothing else`,
  };
}

/** The options without their nesting, or a sentence about the first one that is not taken. */
function readOptions(text: string): Partial<Record<Option, string>> | string {
  // a byte that is not UTF-8 is an error to QEMU here
  const value = text.isWellFormed() ? parseJson(text) : undefined;
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'is no JSON object';
  const found: Partial<Record<Option, string>> = {};
  for (const [key, content] of flatten(value)) {
    const option = OPTIONS.find((name) => name === key);
    if (option === undefined) return `has the option '${key}'`;
    if (typeof content !== 'string') return `has no text for '${key}'`;
    if (found[option] !== undefined) return `has the option '${key}' twice`;
    found[option] = content;
  }
  return found;
}

function flatten(value: object): [key: string, content: unknown][] {
  return Object.entries(value).flatMap(([key, content]: [string, unknown]) => {
    const isNested = key === 'file' && typeof content === 'object' && content !== null;
    return isNested
      ? Object.entries(content).map(([inner, each]) => [`file.${inner}`, each] as [string, unknown])
      : [[key, content]];
  });
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}
