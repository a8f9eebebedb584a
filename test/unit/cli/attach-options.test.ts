// The -o list of attach: what goes to the mount of the image, what to the guest's file system, and what to neither.

import { describe, expect, it } from 'vitest';
import { joinOptions, parseAttachOptions } from '../../../src/cli/attach-options.ts';
import { MOUNT_OPTION_NAMES, splitOptions } from '../../../src/cli/mount-options.ts';

const SIMPLE = { image: [], guest: [], readOnly: false, mustWrite: false, writesAside: false, allowOther: false };

describe('the options of attach', () => {
  it('go to the image if the mount of an image knows them, and else to the guest', () => {
    const lists = ['share,allow_backing=/base,noatime', 'data=journal,uid=5,allow_other'];
    expect(parseAttachOptions(lists)).toEqual({
      ...SIMPLE,
      image: ['share', 'allow_backing=/base', 'allow_other'],
      guest: ['noatime', 'data=journal', 'uid=5'],
      allowOther: true,
    });
  });

  it('say whether the image is written: the last of ro and rw counts', () => {
    expect(parseAttachOptions(['ro'])).toEqual({ ...SIMPLE, readOnly: true });
    expect(parseAttachOptions(['ro,rw'])).toEqual({ ...SIMPLE, mustWrite: true });
    expect(parseAttachOptions(['rw', 'ro'])).toEqual({ ...SIMPLE, readOnly: true });
    expect(parseAttachOptions(['snapshot'])).toMatchObject({ image: ['snapshot'], writesAside: true });
    expect(parseAttachOptions(['overlay=/o.qcow2'])).toMatchObject({ image: ['overlay=/o.qcow2'], writesAside: true });
  });

  it('leave out what is for fstab and systemd', () => {
    expect(parseAttachOptions(['defaults,nofail,x-systemd.automount,X-mount.mkdir,_netdev'])).toEqual(SIMPLE);
  });

  it.each([
    'loop',
    'offset=512',
    'sizelimit=1',
    'partition=2',
    'remount',
    'bind',
    'rbind',
    'move',
    'pid_file=/p',
  ])('refuse %s by name, with what to do instead', (option) => {
    const name = option.replace(/=.*/, '');
    expect(() => parseAttachOptions([option])).toThrow(`attach does not take the option ${name}: `);
  });

  it('never give the image an option that a mount of an image does not know', () => {
    const all = parseAttachOptions([
      [...MOUNT_OPTION_NAMES].filter((name) => !/^(partition|pid_file)$/.test(name)).join(','),
    ]);
    for (const each of all.image) expect(MOUNT_OPTION_NAMES).toContain(each);
    expect(all.image).not.toContain('debug');
  });

  it('are joined so that they come apart again, whatever is in a value', () => {
    const items = ['overlay=/a,b.qcow2', 'allow_backing=/with "quotes"', 'key_file=/back\\slash', 'ro'];
    expect(splitOptions(joinOptions(items))).toEqual(items);
  });
});
