// The -o list of a mount: options that mount(8), mount.fuse3 and fstab pass, options known from libfuse, and our own.
// Invariant: an option takes effect, or it is known to have no meaning here, or it is refused by name.

import { FULL_POLICIES, type FullPolicy, TRANSPORTS, type TransportChoice } from '../daemon/mount-request.ts';
import { didYouMean, ImgfuseError } from '../errors/index.ts';

/** The -o options; a member is absent if the option was not given. */
export interface MountOptions {
  readOnly: boolean;
  allowOther: boolean;
  /** always on, except in an inherited mount */
  defaultPermissions: boolean;
  debug: boolean;
  /** qcow2: mark the image dirty while it changes */
  lazyRefcounts: boolean;
  /** accept a backing file other than the one that the overlay was made on */
  anyParent: boolean;
  lock: boolean;
  share: boolean;
  /** changes go to a file that is gone afterwards */
  snapshot: boolean;
  /** the file that changes go to */
  overlay?: string;
  /** the one partition that a mountpoint which is a file shows */
  partition?: number;
  /** flags of mount(2) by name: noexec, noatime, ... */
  flags: string[];
  allowBacking: string[];
  full: FullPolicy;
  /** absent: as stored in the image */
  copyOnRead?: boolean;
  source?: string;
  maxRead?: number;
  uid?: number;
  gid?: number;
  umask?: number;
  format?: string;
  keyFile?: string;
  keyEnv?: string;
  workers?: number;
  transport?: TransportChoice;
  pidFile?: string;
}

type Apply = (options: MountOptions, value: string, name: string) => void;

const NOTHING: Apply = () => {};
const setFlag: Apply = (options, _value, name) => {
  if (!options.flags.includes(name)) options.flags.push(name);
};
const dropFlag =
  (flag: string): Apply =>
  (options) => {
    options.flags = options.flags.filter((each) => each !== flag);
  };

/**
 * Options without a value. suid and dev are accepted because mount(8) always passes them; the mount stays nosuid and
 * nodev, as it holds nothing but regular files. Options for mount(8) or other file systems do nothing.
 */
const FLAGS: Readonly<Record<string, Apply>> = {
  ro: (options) => {
    options.readOnly = true;
  },
  rw: (options) => {
    options.readOnly = false;
  },
  allow_other: (options) => {
    options.allowOther = true;
  },
  default_permissions: (options) => {
    options.defaultPermissions = true;
  },
  debug: (options) => {
    options.debug = true;
  },
  any_parent: (options) => {
    options.anyParent = true;
  },
  lazy_refcounts: (options) => {
    options.lazyRefcounts = true;
  },
  nolock: (options) => {
    options.lock = false;
  },
  share: (options) => {
    options.share = true;
  },
  snapshot: (options) => {
    options.snapshot = true;
  },
  copy_on_read: (options) => {
    options.copyOnRead = true;
  },
  nocopy_on_read: (options) => {
    options.copyOnRead = false;
  },
  noexec: setFlag,
  exec: dropFlag('noexec'),
  noatime: setFlag,
  atime: dropFlag('noatime'),
  nodiratime: setFlag,
  diratime: dropFlag('nodiratime'),
  relatime: setFlag,
  norelatime: dropFlag('relatime'),
  strictatime: setFlag,
  nostrictatime: dropFlag('strictatime'),
  lazytime: setFlag,
  nolazytime: dropFlag('lazytime'),
  sync: setFlag,
  async: dropFlag('sync'),
  dirsync: setFlag,
  nosymfollow: setFlag,
  symfollow: dropFlag('nosymfollow'),
};

const IGNORED = new Set(
  (
    'defaults dev nodev suid nosuid auto noauto user nouser users nousers owner group nofail _netdev loud silent ' +
    'iversion noiversion mand nomand nonempty big_writes hard_remove dev_rename'
  ).split(' '),
);

const REFUSED: Readonly<Record<string, string>> = {
  auto_unmount: 'it would unmount lazily and hide whether the image was closed; end the mount with "imgfuse unmount"',
  allow_root: 'use allow_other; root may always look into a mount that others may use',
  remount: '"imgfuse remount -o rw MOUNTPOINT" hands an image over; to change other options unmount and mount again',
};

const VALUES: Readonly<Record<string, Apply>> = {
  fsname: (options, value) => {
    options.source = value;
  },
  subtype: NOTHING,
  comment: NOTHING,
  max_read: (options, value, name) => {
    options.maxRead = parseNumber(name, value, 4096, 2 ** 31 - 1);
  },
  uid: (options, value, name) => {
    options.uid = parseNumber(name, value, 0, 2 ** 32 - 2);
  },
  gid: (options, value, name) => {
    options.gid = parseNumber(name, value, 0, 2 ** 32 - 2);
  },
  umask: (options, value) => {
    if (!/^[0-7]{1,4}$/.test(value)) throw invalid('umask', value, 'give octal permission bits such as 077');
    options.umask = Number.parseInt(value, 8);
  },
  format: (options, value) => {
    options.format = value;
  },
  full: (options, value) => {
    const found = FULL_POLICIES.find((name) => name === value);
    if (found === undefined) throw invalid('full', value, `choose one of ${FULL_POLICIES.join(', ')}`);
    options.full = found;
  },
  workers: (options, value) => {
    options.workers = parseWorkers(value);
  },
  transport: (options, value) => {
    options.transport = parseTransport(value);
  },
  key_file: (options, value) => {
    options.keyFile = value;
  },
  key_env: (options, value) => {
    options.keyEnv = value;
  },
  allow_backing: (options, value) => {
    options.allowBacking.push(value);
  },
  partition: (options, value, name) => {
    options.partition = parseNumber(name, value, 1, 255);
  },
  overlay: (options, value) => {
    options.overlay = value;
  },
  pid_file: (options, value) => {
    options.pidFile = value;
  },
};

/** Every option with an effect. */
export const MOUNT_OPTION_NAMES: readonly string[] = [...Object.keys(FLAGS), ...Object.keys(VALUES)];

/** @param lists the values of every -o, in order; later options win */
export function parseMountOptions(lists: readonly string[]): MountOptions {
  const options: MountOptions = {
    readOnly: false,
    allowOther: false,
    defaultPermissions: false,
    debug: false,
    lazyRefcounts: false,
    anyParent: false,
    lock: true,
    share: false,
    snapshot: false,
    full: 'report',
    flags: [],
    allowBacking: [],
  };
  for (const item of lists.flatMap(splitOptions)) applyOption(options, item);
  return options;
}

/** Looks up an own member of a table, not one that every object inherits. */
function entryOf<T>(table: Readonly<Record<string, T>>, name: string): T | undefined {
  return Object.hasOwn(table, name) ? table[name] : undefined;
}

function applyOption(options: MountOptions, item: string): void {
  const equals = item.indexOf('=');
  const name = equals < 0 ? item : item.slice(0, equals);
  const reason = entryOf(REFUSED, name);
  if (reason !== undefined) throw new ImgfuseError('usage', `the mount option ${name} is not offered: ${reason}`);
  if (IGNORED.has(name) || name.startsWith('x-') || name.startsWith('X-')) return;
  const withValue = entryOf(VALUES, name);
  const value = equals < 0 ? '' : item.slice(equals + 1);
  if (withValue !== undefined && (value !== '' || (equals >= 0 && withValue === NOTHING))) {
    withValue(options, value, name);
    return;
  }
  const flag = entryOf(FLAGS, name);
  if (equals < 0 && flag !== undefined) {
    flag(options, '', name);
    return;
  }
  if (withValue !== undefined)
    throw new ImgfuseError('usage', `the mount option ${name} needs a value: -o ${name}=...`);
  if (flag !== undefined) throw new ImgfuseError('usage', `the mount option ${name} takes no value (got "${item}")`);
  const nearest = didYouMean(name, [...MOUNT_OPTION_NAMES, ...Object.keys(REFUSED), ...IGNORED]);
  const hint = nearest === '' ? '; "imgfuse mount --help" lists them' : nearest;
  throw new ImgfuseError('usage', `there is no mount option "${name}"${hint}`);
}

/** Splits at commas. A comma or backslash after a backslash is literal, and so is text in double quotes. */
export function splitOptions(list: string): string[] {
  const items: string[] = [];
  let item = '';
  let quoted = false;
  for (let index = 0; index < list.length; index++) {
    const character = list[index]!;
    const next = list[index + 1];
    if (character === '\\' && (next === ',' || next === '\\' || next === '"')) {
      item += next;
      index++;
    } else if (character === '"') {
      quoted = !quoted;
    } else if (character === ',' && !quoted) {
      items.push(item);
      item = '';
    } else {
      item += character;
    }
  }
  items.push(item);
  return items.filter((each) => each !== '');
}

export function parseWorkers(text: string): number {
  return parseNumber('workers', text, 1, 64);
}

export function parseTransport(text: string): TransportChoice {
  const found = TRANSPORTS.find((name) => name === text);
  if (found === undefined) throw invalid('transport', text, `choose one of ${TRANSPORTS.join(', ')}`);
  return found;
}

function parseNumber(name: string, text: string, minimum: number, maximum: number): number {
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= minimum && value <= maximum)) {
    throw invalid(name, text, `give a whole number from ${minimum} to ${maximum}`);
  }
  return value;
}

function invalid(name: string, value: string, cure: string): ImgfuseError {
  return new ImgfuseError('usage', `"${value}" is no value for ${name}; ${cure}`);
}
