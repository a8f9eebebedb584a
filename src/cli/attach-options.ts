// The -o list of `attach`: some options are for the mount of the image, the others for the guest's file system, where mount(8)
// knows what they mean. Invariant: an option goes to one of the two, or to both if it is about access.

import { ImgfuseError } from '../errors/index.ts';
import { MOUNT_OPTION_NAMES, splitOptions } from './mount-options.ts';

export interface AttachOptions {
  readonly image: readonly string[];
  readonly guest: readonly string[];
  readonly readOnly: boolean;
  /** rw was asked for: no fall back to read-only */
  readonly mustWrite: boolean;
  /** the image is not written, whatever the guest writes */
  readonly writesAside: boolean;
  readonly allowOther: boolean;
}

/** Options of both, whose meaning for the guest's file system is the one that a user means. */
const FOR_GUEST = new Set(
  (
    'uid gid umask debug noexec exec noatime atime nodiratime diratime relatime norelatime strictatime nostrictatime ' +
    'lazytime nolazytime sync async dirsync nosymfollow symfollow nodev dev nosuid suid'
  ).split(' '),
);

/** Options for mount(8) and systemd that nobody looks at here. */
const IGNORED = new Set('defaults auto noauto nofail _netdev user users owner group nouser'.split(' '));

const REFUSED: Readonly<Record<string, string>> = {
  loop: 'attach makes the loop device',
  offset: 'attach finds where a partition begins; choose one with --partition N',
  sizelimit: 'attach finds where a partition ends; choose one with --partition N',
  partition: 'choose one with --partition N',
  remount: 'detach and attach again',
  bind: 'attach mounts images',
  rbind: 'attach mounts images',
  move: 'attach mounts images',
  pid_file: 'the mount of an attached image is ended by "imgfuse detach"',
};

/** Options with which writes go to another file. */
const WRITES_ASIDE = ['overlay', 'snapshot'];

/** @param lists the values of every -o, in order; later options win */
export function parseAttachOptions(lists: readonly string[]): AttachOptions {
  const image: string[] = [];
  const guest: string[] = [];
  let access: 'ro' | 'rw' | null = null;
  let writesAside = false;
  let allowOther = false;
  for (const item of lists.flatMap(splitOptions)) {
    const name = item.replace(/=.*$/s, '');
    if (Object.hasOwn(REFUSED, name)) {
      throw new ImgfuseError('usage', `attach does not take the option ${name}: ${REFUSED[name]}`);
    }
    if (IGNORED.has(name) || /^[xX]-/.test(name)) continue;
    if (item === 'ro' || item === 'rw') access = item;
    else if (FOR_GUEST.has(name) || !MOUNT_OPTION_NAMES.includes(name)) guest.push(item);
    else image.push(item);
    writesAside ||= WRITES_ASIDE.includes(name);
    allowOther ||= item === 'allow_other';
  }
  const readOnly = access === 'ro';
  return { image, guest, readOnly, mustWrite: access === 'rw', writesAside, allowOther };
}

/** A list for -o that splitOptions() takes apart again. */
export function joinOptions(items: readonly string[]): string {
  return items.map((item) => item.replaceAll(/[\\",]/g, '\\$&')).join(',');
}
