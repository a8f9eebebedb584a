// The -o list: every spelling that mount(8), libfuse and fstab use.

import { describe, expect, it } from 'vitest';
import { parseMountOptions, splitOptions } from '../../../src/cli/mount-options.ts';
import { ImgfuseError } from '../../../src/errors/index.ts';

function refusal(...lists: readonly string[]): string {
  try {
    parseMountOptions(lists);
  } catch (error) {
    expect(error).toBeInstanceOf(ImgfuseError);
    expect((error as ImgfuseError).kind).toBe('usage');
    return (error as ImgfuseError).message;
  }
  throw new Error(`${lists} was accepted`);
}

describe('splitOptions', () => {
  it('splits at commas and drops empty items', () => {
    expect(splitOptions('rw,,dev,')).toEqual(['rw', 'dev']);
  });
  it('keeps a comma after a backslash or in double quotes', () => {
    expect(splitOptions('fsname=a\\,b,ro')).toEqual(['fsname=a,b', 'ro']);
    expect(splitOptions('fsname="a,b",ro')).toEqual(['fsname=a,b', 'ro']);
    expect(splitOptions('fsname=a\\\\,ro')).toEqual(['fsname=a\\', 'ro']);
  });
  it('keeps other backslashes', () => {
    expect(splitOptions('fsname=a\\040b')).toEqual(['fsname=a\\040b']);
  });
});

describe('parseMountOptions', () => {
  it('accepts the generic options of mount(8) silently', () => {
    const generic = 'rw,dev,suid,exec,auto,nouser,async,relatime,nofail,_netdev,x-systemd.automount,defaults';
    expect(parseMountOptions([generic])).toMatchObject({ readOnly: false, flags: ['relatime'] });
  });
  it('the last of ro and rw wins, over several -o', () => {
    expect(parseMountOptions(['ro', 'rw']).readOnly).toBe(false);
    expect(parseMountOptions(['rw', 'ro']).readOnly).toBe(true);
  });
  it('passes on what means something, once, and takes it back', () => {
    expect(parseMountOptions(['noexec,noatime,sync,noexec']).flags).toEqual(['noexec', 'noatime', 'sync']);
    expect(parseMountOptions(['noexec,exec']).flags).toEqual([]);
    expect(parseMountOptions(['nosymfollow']).flags).toEqual(['nosymfollow']);
    expect(parseMountOptions(['nosymfollow,symfollow']).flags).toEqual([]);
  });
  it('reads the options with values', () => {
    const text = 'allow_other,fsname=x,max_read=65536,uid=1000,gid=100,umask=022,format=qed,workers=3';
    expect(
      parseMountOptions([
        text,
        'transport=kernel,allow_backing=/a,allow_backing=/b,pid_file=/p,nolock,debug,lazy_refcounts,any_parent,overlay=/o',
      ]),
    ).toEqual({
      readOnly: false,
      allowOther: true,
      defaultPermissions: false,
      debug: true,
      lazyRefcounts: true,
      anyParent: true,
      lock: false,
      share: false,
      snapshot: false,
      overlay: '/o',
      full: 'report',
      flags: [],
      allowBacking: ['/a', '/b'],
      source: 'x',
      maxRead: 65536,
      uid: 1000,
      gid: 100,
      umask: 0o022,
      format: 'qed',
      workers: 3,
      transport: 'kernel',
      pidFile: '/p',
    });
  });
  it('refuses what it does not know by name', () => {
    expect(refusal('rw,frob')).toBe('there is no mount option "frob"; "imgfuse mount --help" lists them');
    expect(refusal('frob=1')).toContain('"frob"');
    expect(refusal('ro,sahre')).toBe('there is no mount option "sahre"; did you mean "share"?');
    expect(refusal('key-file=/k')).toBe('there is no mount option "key-file"; did you mean "key_file"?');
    expect(refusal('alow_other')).toContain('did you mean "allow_other"?');
    expect(refusal('constructor')).toContain('"constructor"');
    expect(refusal('__proto__=1')).toContain('"__proto__"');
  });
  it('refuses what would hide failures', () => {
    expect(refusal('auto_unmount')).toContain('hide');
    expect(refusal('remount,ro')).toContain('imgfuse remount');
  });
  it('knows what becomes of writes on a full host', () => {
    expect(parseMountOptions(['full=wait']).full).toBe('wait');
    expect(parseMountOptions(['full=wait,full=report']).full).toBe('report');
    expect(refusal('full=stop')).toBe('"stop" is no value for full; choose one of report, wait');
    expect(refusal('full')).toContain('needs a value');
  });
  it('refuses values just outside their range, missing and superfluous values', () => {
    expect(refusal('workers=0')).toContain('from 1 to 64');
    expect(refusal('workers=65')).toContain('from 1 to 64');
    expect(refusal('workers=1.5')).toContain('whole number');
    expect(refusal('max_read=4095')).toContain('from 4096');
    expect(refusal('uid=-1')).toContain('uid');
    expect(refusal('uid=4294967295')).toContain('uid');
    expect(refusal('umask=8')).toContain('octal');
    expect(refusal('umask')).toContain('needs a value');
    for (const name of ['fsname', 'key_file', 'pid_file', 'allow_backing', 'format']) {
      expect(refusal(`${name}=`)).toBe(`the mount option ${name} needs a value: -o ${name}=...`);
    }
    expect(refusal('ro=1')).toContain('takes no value');
    expect(refusal('transport=smoke')).toContain('auto, kernel, fuse-native');
  });
});
