// What blkid(8) says of a part of a disk, laid over our own answer: it knows more kinds of content. Invariant: the answer comes in
// bounded time or not at all, and every line of it is hostile until parsed, because labels come from the guest. It reads the
// disk in a process of its own, so a thread that serves the disk must not wait for it.

import { spawn } from 'node:child_process';
import { exactCommand } from '../bytes/exact-command.ts';
import { type Content, type ContentUse, useOfType } from './partitions/index.ts';

/** Which part of which file: `path` is absolute, `offset` and `size` are in bytes. */
export interface BlkidPart {
  readonly path: string;
  readonly offset: number;
  readonly size: number;
}

export type BlkidAnswer =
  | {
      readonly kind: 'found';
      readonly type: string;
      readonly usage: string;
      readonly label: string | null;
      readonly uuid: string | null;
    }
  /** it recognizes several kinds and does not choose; it may name fewer than it sees */
  | { readonly kind: 'ambivalent'; readonly types: readonly string[] }
  | { readonly kind: 'nothing' }
  /** no such program, or no answer in time */
  | { readonly kind: 'unavailable' };

const LIMIT_MS = 3000;
/** Ten lines with a label of 256 characters at most, four bytes for each of its bytes. */
const MAX_OUTPUT_BYTES = 64 * 1024;
const EXIT_FOUND = 0;
const EXIT_NOTHING = 2;
const EXIT_AMBIVALENT = 8;
/** Many users do not have them in their PATH. */
const MORE_PATH = '/usr/sbin:/sbin';
const UNAVAILABLE: BlkidAnswer = { kind: 'unavailable' };

/** Asks blkid. Never fails, and never waits longer than `limitMs`, even for a process that the kernel does not let end. */
export function askBlkid(
  { path, offset, size }: BlkidPart,
  limitMs = LIMIT_MS,
  command = 'blkid',
): Promise<BlkidAnswer> {
  const asked = ['-p', '-o', 'udev', '-O', String(offset), '-S', String(size), '--', path];
  const [program, parameters] = exactCommand(command, asked);
  return new Promise((resolve) => {
    const child = spawn(program, parameters, {
      stdio: ['ignore', 'pipe', 'ignore'],
      cwd: '/',
      env: { PATH: `${process.env['PATH'] ?? ''}:${MORE_PATH}`, LC_ALL: 'C' },
    });
    let output = '';
    const finish = (answer: BlkidAnswer): void => {
      clearTimeout(timer);
      resolve(answer);
    };
    const giveUp = (): void => {
      child.kill('SIGKILL');
      child.stdout?.destroy();
      child.unref();
      finish(UNAVAILABLE);
    };
    const timer = setTimeout(giveUp, limitMs);
    child.on('error', () => finish(UNAVAILABLE));
    // without a free descriptor there is no pipe, and the error comes later
    child.stdout?.setEncoding('latin1').on('data', (chunk: string) => {
      output += chunk;
      if (output.length > MAX_OUTPUT_BYTES) giveUp();
    });
    child.on('close', (code) => finish(parseBlkid(code, output)));
  });
}

/** @param output of `blkid -p -o udev`, one character for each byte */
export function parseBlkid(code: number | null, output: string): BlkidAnswer {
  if (code === EXIT_NOTHING) return { kind: 'nothing' };
  if (code !== EXIT_FOUND && code !== EXIT_AMBIVALENT) return UNAVAILABLE;
  const values = new Map<string, string>();
  for (const line of output.split('\n')) {
    const [, name, value] = /^ID_FS_([A-Z_]+)=(.*)$/.exec(line) ?? [];
    if (name !== undefined && !values.has(name)) values.set(name, value!);
  }
  if (code === EXIT_AMBIVALENT) return { kind: 'ambivalent', types: ambivalentTypes(values.get('AMBIVALENT') ?? '') };
  const type = wordOrNull(values.get('TYPE'));
  // a disk with a partition table has one, and nothing else
  if (type === null) return { kind: 'nothing' };
  return {
    kind: 'found',
    type,
    usage: values.get('USAGE') ?? '',
    label: decoded(values.get('LABEL_ENC')),
    uuid: wordOrNull(values.get('UUID_ENC')),
  };
}

/** "filesystem:vfat:FAT16 filesystem:ext4:1.0" */
function ambivalentTypes(value: string): string[] {
  const types = value.split(' ').map((part) => wordOrNull(part.split(':')[1]));
  return types.filter((type) => type !== null);
}

function wordOrNull(value: string | undefined): string | null {
  return value !== undefined && /^[\w.+-]{1,64}$/.test(value) ? value : null;
}

/** The bytes behind \x00 to \xff, as UTF-8. */
function decoded(value: string | undefined): string | null {
  if (value === undefined || value === '') return null;
  const bytes = value.replace(/\\x([0-9a-f]{2})/g, (_escape, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 16)),
  );
  return Buffer.from(bytes, 'latin1').toString('utf8');
}

/** Our own answer with what blkid knows better: the type, label and UUID; whether a journal must be replayed it does not say. */
export function mergeBlkid(own: Content | null, answer: BlkidAnswer): Content | null {
  if (answer.kind === 'ambivalent')
    return own === null ? ambivalent(answer.types) : { ...own, also: others(own, answer.types) };
  if (answer.kind !== 'found') return own;
  const { type, label, uuid } = answer;
  if (own?.type === type) return { ...own, label: label ?? own.label, uuid: uuid ?? own.uuid };
  const use = useOfType(type) ?? useOfUsage(answer.usage);
  return { type, use, label, uuid, needsRecovery: null, also: own === null ? [] : [own.type] };
}

function ambivalent([type, ...also]: readonly string[]): Content | null {
  if (type === undefined) return null;
  return { type, use: useOfType(type) ?? 'container', label: null, uuid: null, needsRecovery: null, also };
}

function others(own: Content, types: readonly string[]): string[] {
  return [...new Set([...own.also, ...types])].filter((type) => type !== own.type);
}

/** Of a type that the table of kinds does not have. */
function useOfUsage(usage: string): ContentUse {
  return usage === 'filesystem' ? 'filesystem' : 'container';
}
