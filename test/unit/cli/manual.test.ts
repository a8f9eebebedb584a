// The manual page, the help and the README name the same options: each option of the program is explained in the manual page,
// and nobody is told about an option that does not exist.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { PROGRAM } from '../../../src/cli/all-commands.ts';
import { GLOBAL_OPTIONS, type Option } from '../../../src/cli/command.ts';
import { MOUNT_OPTIONS_HELP } from '../../../src/cli/commands/mount.ts';
import { MOUNT_OPTION_NAMES } from '../../../src/cli/mount-options.ts';
import { formats } from '../../../src/disk/registry.ts';

const page = readFileSync(new URL('../../../scripts/man/imgfuse.1', import.meta.url), 'utf8')
  .replaceAll('\\-', '-')
  .replace(/\\f[BIR]/g, '');
const readme = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8');
const using = readFileSync(new URL('../../../native-notes/using.md', import.meta.url), 'utf8');

const commandNames: readonly string[] = PROGRAM.flatMap(({ name, aliases }) => [name, ...(aliases ?? [])]);

/** One entry of a list: its heading, and the text below. */
interface Entry {
  readonly heading: string;
  readonly text: string;
}

/** The text of a section without its heading. */
function section(name: string): string {
  const found = page.split(/^\.S[SH] /m).find((each) => each.startsWith(`${name}\n`));
  if (found === undefined) throw new Error(`the page has no section ${name}`);
  return found.slice(name.length + 1);
}

function entriesOf(text: string): Entry[] {
  const parts = text.split(/^\.TP\n/m).slice(1);
  return parts.map((part) => ({ heading: part.split('\n')[0]!, text: part }));
}

/** "-r", "--repair": every spelling of an option. */
function spellings(name: string, { short, aliases }: Option): string[] {
  return [...(short === undefined ? [] : [`-${short}`]), `--${name}`, ...(aliases ?? []).map((each) => `--${each}`)];
}

function spellingsIn(heading: string): string[] {
  return heading.match(/(?<![\w-])--?[A-Za-z][a-z-]*/g) ?? [];
}

/** What the page explains of a command, in each section that has its name; an entry may be for some of its commands only. */
function explained(command: string): string[] {
  const titles = page.match(/^\.SS .*$/gm)!.map((line) => line.slice(4));
  return titles
    .filter((title) => title.split(', ').includes(command))
    .flatMap((title) => entriesOf(section(title)))
    .filter(({ text }) => {
      const only = /^\.RB? \(? ?\(?([a-z" ,]+)/m.exec(text.split('\n')[1] ?? '');
      const names = text.split('\n')[1]?.startsWith('.RB (') === true ? only![1]!.match(/[a-z]+/g)! : [command];
      return names.includes(command);
    })
    .flatMap(({ heading }) => spellingsIn(heading));
}

/** The options of passwords are explained once, with the commands that have them. */
const PASSWORD_OPTIONS = ['--key-file', '--key-env'];

describe('the manual page', () => {
  it('explains the options of all commands', () => {
    const all = Object.entries<Option>(GLOBAL_OPTIONS).flatMap(([name, option]) => spellings(name, option));
    expect(
      entriesOf(section('All commands'))
        .flatMap(({ heading }) => spellingsIn(heading))
        .sort(),
    ).toEqual(all.sort());
  });

  it.each(
    PROGRAM.map((command) => [command.name, command.options] as const),
  )('explains exactly the options of %s', (command, options) => {
    const all = Object.entries<Option>(options).flatMap(([name, option]) => spellings(name, option));
    const elsewhere = command === 'mount' ? [] : PASSWORD_OPTIONS;
    const expected = all.filter((option) => !elsewhere.includes(option));
    expect([...new Set(explained(command))].sort()).toEqual([...new Set(expected)].sort());
  });

  it.each(
    formats.flatMap(({ name, createHelp }) => (createHelp === undefined ? [] : [[name, createHelp] as const])),
  )('lists the options of create -f %s as -o help does', (name, { options }) => {
    const entries = entriesOf(section(`create -f ${name}`)).map(({ text }) => text.trim().split('\n'));
    expect(entries).toEqual(options.map(({ key, value, text }) => [`.B ${key}=${value}`, `${text}.`]));
  });

  it('names every format that images can be made in, and no other', () => {
    const { text } = entriesOf(section('create')).find(({ heading }) => heading.includes('--format'))!;
    const names = text
      .split('\n')
      .slice(1)
      .join(' ')
      .match(/\b(?!BR|B\b|or\b)\w+\b/g)!;
    expect(names.sort()).toEqual(formats.flatMap(({ name, create }) => (create === undefined ? [] : [name])).sort());
  });

  it('says which commands take a password', () => {
    const text = entriesOf(section('mount')).find(({ heading }) => heading.includes('--key-file'))!.text;
    const have = text.slice(text.indexOf('It serves every'), text.indexOf('have this option'));
    const takers = PROGRAM.filter(({ options }) => Object.hasOwn(options, 'key-file')).map(({ name }) => name);
    expect(
      [
        'mount',
        ...(have.match(/\b(attach|create|info|check|commit|map|rebase|resize|status|remount|unmount)\b/g) ?? []),
      ].sort(),
    ).toEqual(takers.sort());
  });

  it('has every command in its synopsis, and no other', () => {
    const synopsis = section('SYNOPSIS').replace(/^\.nf|\.fi$/gm, '');
    const named = [...synopsis.matchAll(/^imgfuse ([a-z]+)(?:\|([a-z]+))?/gm)].flatMap(([, one, other]) => [
      one,
      other,
    ]);
    expect(named.filter((name) => name !== undefined).sort()).toEqual([...commandNames].sort());
  });
});

/** Of "uid=N, gid=N": uid, gid. */
function mountOptionNames(terms: string): string[] {
  return terms.match(/(?<![=A-Z])\b[a-z_]{2,}\b(?==|,|\s|$)/g) ?? [];
}

describe('mount options', () => {
  const inHelp = MOUNT_OPTIONS_HELP.flatMap(([terms]) => mountOptionNames(terms));
  const inPage = entriesOf(section('Mount options')).flatMap(({ heading }) =>
    mountOptionNames(
      heading
        .replace(/^\.[A-Z]+ /, '')
        .replace(/\\fR|"| (?==)/g, ' ')
        .replaceAll(' ,', ','),
    ),
  );
  /** Those of mount(8) and of every FUSE file system that need no explanation, or mean nothing here. */
  const GENERIC = ['default_permissions', 'subtype', 'comment', 'async', 'exec', 'atime', 'symfollow', 'dirsync'];
  const OWN = MOUNT_OPTION_NAMES.filter((name) => !GENERIC.includes(name) && !/(?:time|symfollow)$/.test(name));

  it('that are told exist', () => {
    for (const name of [...inHelp, ...inPage]) expect(MOUNT_OPTION_NAMES).toContain(name);
  });
  it('that are not those of mount(8) are told in the help and in the manual page', () => {
    for (const name of OWN) {
      expect(inHelp, 'the help').toContain(name);
      expect(inPage, 'the manual page').toContain(name);
    }
  });
});

describe('the README', () => {
  it('says of every format what its plug says', () => {
    const rows = [...readme.matchAll(/^\| (\w+) \| yes[^|]*\| (\w+)[^|]*\| (\w+)[^|]*\| (\w+)[^|]*\|$/gm)];
    const told = rows.map(([, name, write, check, create]) => [name!.toLowerCase(), write, check, create]);
    const said = (is: boolean): string => (is ? 'yes' : 'no');
    expect(told.sort()).toEqual(
      formats
        .map(({ name, can, check, create }) => [
          ...[name, said(can.write), said(check !== undefined), said(create !== undefined)],
        ])
        .sort(),
    );
  });

  it('shows no command and no option that does not exist', () => {
    const lines = [
      ...`${readme}\n${using}`.matchAll(/(?:^ {4}|`|"|&& )(?:\$ )?(?:sudo )?imgfuse ([a-z]+)\b([^`"#\n]*)/gm),
    ];
    expect(lines.length).toBeGreaterThan(10);
    for (const [line, name, rest = ''] of lines) {
      expect(commandNames, line).toContain(name);
      const { options } = PROGRAM.find(
        (command) => command.name === name || command.aliases?.includes(name as 'umount'),
      )!;
      const known = Object.entries<Option>({ ...GLOBAL_OPTIONS, ...options }).flatMap(([each, option]) =>
        spellings(each, option),
      );
      for (const option of spellingsIn(rest.split(/ && | -- /)[0]!)) expect(known, line).toContain(option);
    }
  });
});
