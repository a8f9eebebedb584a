// The arguments of `mount`: their table, and the mount request made from them.
// Invariant: this file does not load yargs, because a mount by mount(8) or by its own daemon must start fast.

import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { type MountRequest, type OverlayRequest, TRANSPORTS } from '../daemon/mount-request.ts';
import type { LockMode } from '../disk/index.ts';
import { ImgfuseError } from '../errors/index.ts';
import { absolutePath, canonicalEntry, canonicalPath } from '../host/canonical-path.ts';
import { checkArguments } from './check-arguments.ts';
import { type CommandShape, GLOBAL_OPTIONS, type Options } from './command.ts';
import { type MountOptions, parseMountOptions, parseTransport, parseWorkers } from './mount-options.ts';
import { KEY_OPTIONS, NO_LOCK } from './shared-options.ts';

/** The hidden command with which the program starts itself as the process of a mount; its argument is the request as JSON. */
export const DAEMON_COMMAND = 'mount-process';

/** The hidden option of completion scripts; the arguments after it are an incomplete command line. */
export const COMPLETION_OPTION = '--get-yargs-completions';

const WORKERS_MIN = 2;
const WORKERS_DEFAULT_MAX = 16;

export const MOUNT_ARGUMENTS = {
  options: {
    type: 'string',
    short: 'o',
    multiple: true,
    mayBeEmpty: true,
    placeholder: 'OPTS',
    description: 'mount options, separated by commas (listed below)',
  },
  'read-only': { type: 'boolean', short: 'r', means: '--options=ro', description: 'the same as -o ro' },
  'read-write': {
    type: 'boolean',
    short: 'w',
    aliases: ['rw'],
    means: '--options=rw',
    description: 'the same as -o rw, the default',
  },
  foreground: { type: 'boolean', short: 'f', description: 'stay in the foreground, log to stderr' },
  debug: { type: 'boolean', short: 'd', description: 'log more; implies -f' },
  single: { type: 'boolean', short: 's', description: 'one worker thread, the same as --workers 1' },
  format: { type: 'string', placeholder: 'F', description: 'image format; default: the content of the file decides' },
  workers: {
    type: 'string',
    placeholder: 'N',
    description: 'worker threads; default: one per processor, at least 2',
  },
  transport: {
    type: 'string',
    choices: TRANSPORTS,
    description: 'how to speak FUSE; auto: kernel, or fuse-native if that cannot work',
  },
  'allow-backing': {
    type: 'string',
    multiple: true,
    placeholder: 'DIR',
    description:
      'a directory that backing files may lie in, a file or block device that may be one, or a URL that they may lie at or ' +
      'below (repeatable)',
  },
  ...KEY_OPTIONS,
  'no-lock': NO_LOCK,
  'pid-file': { type: 'string', placeholder: 'FILE', description: 'write the process id of the mount to this file' },
} as const satisfies Options;

/** The command without the parts that only its help needs. */
export const MOUNT_SHAPE: CommandShape = {
  name: 'mount',
  names: [
    { name: 'image', description: 'the disk image' },
    { name: 'mountpoint', description: 'a directory; or a regular file, which then is the disk itself' },
  ],
  options: MOUNT_ARGUMENTS,
  excludes: [['key-file', 'key-env']],
};

/** The arguments as parsed. */
export interface ParsedMountArguments {
  readonly image: string;
  readonly mountpoint: string;
  readonly options?: readonly string[] | undefined;
  readonly foreground?: boolean | undefined;
  readonly debug?: boolean | undefined;
  readonly single?: boolean | undefined;
  readonly format?: string | undefined;
  readonly workers?: string | undefined;
  readonly transport?: string | undefined;
  readonly 'allow-backing'?: readonly string[] | undefined;
  readonly 'key-file'?: string | undefined;
  readonly 'key-env'?: string | undefined;
  readonly 'no-lock'?: boolean | undefined;
  readonly 'pid-file'?: string | undefined;
  readonly output?: string | undefined;
}

/** @returns null if the arguments ask for help or the version @throws ImgfuseError usage */
export function parseMountArguments(argv: readonly string[]): ParsedMountArguments | null {
  const { options, names, wantsHelp, wantsVersion } = checkArguments(MOUNT_SHAPE, argv);
  if (wantsHelp || wantsVersion) return null;
  const { values } = parseArgs({ args: [...options], options: { ...MOUNT_ARGUMENTS, output: GLOBAL_OPTIONS.output } });
  const [image, mountpoint] = names as [string, string];
  return { ...values, image, mountpoint };
}

/** Checks the values and makes every path absolute. @throws ImgfuseError usage */
export function mountRequest(parsed: ParsedMountArguments): MountRequest {
  const options = parseMountOptions(parsed.options ?? []);
  const debug = parsed.debug === true || options.debug;
  if (parsed.image === '') throw new ImgfuseError('usage', 'the name of the image is empty');
  if (parsed.mountpoint === '') throw new ImgfuseError('usage', 'the mountpoint is empty');
  const image = canonicalPath(parsed.image);
  const pidFile = parsed['pid-file'] ?? options.pidFile;
  const format = parsed.format ?? options.format;
  const keyFile = parsed['key-file'] ?? options.keyFile;
  const keyEnv = parsed['key-env'] ?? options.keyEnv;
  const overlay = overlayRequest(options);
  return {
    image,
    ...(overlay === undefined ? {} : { overlay }),
    imageName: image === parsed.image ? image : canonicalEntry(parsed.image),
    mountpoint: /^\/dev\/fd\/\d+$/.test(parsed.mountpoint) ? parsed.mountpoint : canonicalEntry(parsed.mountpoint),
    readOnly: options.readOnly,
    foreground: parsed.foreground === true || debug,
    debug,
    locks: mountLocks(options, parsed),
    share: options.share,
    allowOther: options.allowOther,
    defaultPermissions: options.defaultPermissions,
    lazyRefcounts: options.lazyRefcounts,
    anyParent: options.anyParent,
    flags: options.flags,
    full: options.full,
    allowBacking: [...options.allowBacking, ...(parsed['allow-backing'] ?? [])].map((each) => canonicalPath(each)),
    workers: workerCount(parsed, options.workers),
    transport: parsed.transport === undefined ? (options.transport ?? 'auto') : parseTransport(parsed.transport),
    source: options.source ?? image,
    json: parsed.output === 'json',
    ...(format === undefined ? {} : { format }),
    ...(keyFile === undefined ? {} : { keyFile: keyFile === '-' ? keyFile : absolutePath(keyFile) }),
    ...(keyEnv === undefined ? {} : { keyEnv }),
    ...(options.maxRead === undefined ? {} : { maxRead: options.maxRead }),
    ...(options.copyOnRead === undefined ? {} : { copyOnRead: options.copyOnRead }),
    ...(options.uid === undefined ? {} : { uid: options.uid }),
    ...(options.gid === undefined ? {} : { gid: options.gid }),
    ...(options.umask === undefined ? {} : { umask: options.umask }),
    ...(options.partition === undefined ? {} : { partition: options.partition }),
    ...(pidFile === undefined ? {} : { pidFile: canonicalEntry(pidFile) }),
  };
}

/** The directory for temporary files that QEMU takes as well: /tmp may be memory. */
const TEMPORARY_DIRECTORY = '/var/tmp';

function overlayRequest({ overlay, readOnly, snapshot }: MountOptions): OverlayRequest | undefined {
  if (!snapshot) return overlay === undefined ? undefined : { path: canonicalEntry(overlay), isTemporary: false };
  if (overlay !== undefined) {
    throw new ImgfuseError(
      'usage',
      'overlay keeps the changes and snapshot throws them away; leave out one of the two',
    );
  }
  if (readOnly) {
    throw new ImgfuseError(
      'usage',
      'snapshot is for changes that are thrown away, and ro makes none; leave out one of the two',
    );
  }
  const chosen = process.env['TMPDIR'];
  const directory = chosen === undefined || chosen === '' ? TEMPORARY_DIRECTORY : absolutePath(chosen);
  return { path: directory, isTemporary: true };
}

/** share needs ro, or an overlay: nothing but the locks keeps two writers apart. */
function mountLocks(options: MountOptions, parsed: ParsedMountArguments): LockMode {
  const hasOverlay = options.snapshot || options.overlay !== undefined;
  if (options.share && !options.readOnly && !hasOverlay) {
    throw new ImgfuseError(
      'usage',
      'share reads an image that somebody else may write, so it needs ro, overlay=FILE or snapshot: -o ro,share',
    );
  }
  if (!options.lock || parsed['no-lock'] === true) return 'none';
  return options.share ? 'share' : 'take';
}

function workerCount(parsed: ParsedMountArguments, fromOptions: number | undefined): number {
  if (parsed.single === true) return 1;
  if (parsed.workers !== undefined) return parseWorkers(parsed.workers);
  return fromOptions ?? Math.min(WORKERS_DEFAULT_MAX, Math.max(WORKERS_MIN, availableParallelism()));
}
