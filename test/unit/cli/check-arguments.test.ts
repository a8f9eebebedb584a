// What is said about wrong arguments, for every command and every one of its options: the sentence names the argument that is
// wrong and, where there is one, the right one next to it. And what comes of right arguments.

import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Parser } from 'yargs/helpers';
import { PROGRAM } from '../../../src/cli/all-commands.ts';
import { checkArguments } from '../../../src/cli/check-arguments.ts';
import { chooseCommand } from '../../../src/cli/choose-command.ts';
import { COMMANDS, type Command, GLOBAL_OPTIONS, type Option, type Options } from '../../../src/cli/command.ts';
import { readOptions } from '../../../src/cli/quick-commands.ts';
import { formats } from '../../../src/disk/registry.ts';
import { ImgfuseError } from '../../../src/errors/index.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

function commandOf(name: string): Command {
  return PROGRAM.find((command) => command.name === name)!;
}

/** The sentence about arguments of a command. */
function complaint(name: string, ...argv: readonly string[]): string {
  return sentenceOf(() => checkArguments(commandOf(name), argv));
}

function sentenceOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(ImgfuseError);
    return (error as ImgfuseError).message;
  }
  throw new Error('nothing was said');
}

/** What a command is given. */
function parsed(name: string, ...argv: readonly string[]): Record<string, unknown> {
  const command = commandOf(name);
  const { options, names } = checkArguments(command, argv);
  const read = readOptions(command.options, options);
  expect(read).toEqual(readWithYargs(command.options, options));
  return { ...read, names };
}

/** What yargs makes of checked options; it takes too long to load for the program itself. */
function readWithYargs(table: Options, checked: readonly string[]): Record<string, unknown> {
  const all: [string, Option][] = Object.entries({ ...GLOBAL_OPTIONS, ...table });
  const names = (type: string): string[] => all.filter(([, option]) => option.type === type).map(([name]) => name);
  const parsed = Parser([...checked], {
    boolean: names('boolean'),
    string: names('string'),
    // with `narg` yargs takes a value as it is; without it yargs guesses, and strips quotes
    narg: Object.fromEntries(all.map(([name, { type }]) => [name, type === 'string' ? 1 : 0])),
    configuration: { 'boolean-negation': false, 'camel-case-expansion': false, 'dot-notation': false },
  });
  const given = all.filter(([name]) => parsed[name] !== undefined);
  return Object.fromEntries(
    given.map(([name, { multiple }]) => {
      const values: unknown[] = [parsed[name]].flat();
      return [name, multiple === true ? values : values.at(-1)];
    }),
  );
}

/** Names and required options, so that only what a test adds is wrong. */
function rightArguments({ names, options }: Command): string[] {
  const required = Object.entries<Option>(options).filter(([, option]) => option.required === true);
  const fitting = names.map(({ choices }) => choices?.[0] ?? 'x');
  return [...required.map(([name, { choices }]) => `--${name}=${choices?.[0] ?? 'x'}`), ...fitting];
}

const every = PROGRAM.flatMap((command) =>
  Object.entries<Option>({ ...GLOBAL_OPTIONS, ...command.options }).map(
    ([name, option]) => [command.name, name, option, command] as const,
  ),
);

describe('the table of commands', () => {
  it('has every command that is told from an image', () => {
    expect(PROGRAM.flatMap(({ name, aliases }) => [name, ...(aliases ?? [])]).sort()).toEqual([...COMMANDS].sort());
  });
  it.each(
    PROGRAM.map((command) => [command.name, command] as const),
  )('%s has no short name twice', (_name, command) => {
    const all = Object.entries<Option>({ ...GLOBAL_OPTIONS, ...command.options });
    const shorts = all.flatMap(([, { short }]) => short ?? []);
    expect(new Set(shorts).size).toBe(shorts.length);
  });
});

describe('every option of every command', () => {
  it.each(every)('%s --%s: mistyped, it is named with the right one', (name, option, _option, command) => {
    const mistyped = `--${option.slice(0, 1)}${option.slice(2)}`;
    const { options } = command;
    expect(Object.hasOwn(options, mistyped.slice(2))).toBe(false);
    const sentence = complaint(name, ...rightArguments(command), mistyped);
    expect(sentence).toContain(`${name} has no option ${mistyped}`);
    // of two that are as near, either will do
    expect(sentence).toMatch(/; did you mean --[a-z-]+\?$/);
    if (option.length > 6) expect(sentence).toContain(`did you mean --${option}?`);
  });

  it.each(every)('%s --%s: its value may neither be missing nor be too much', (name, option, {
    type,
    short,
    mayBeEmpty,
  }, command) => {
    if (option === 'help' || option === 'version') return;
    const right = rightArguments(command);
    for (const typed of [`--${option}`, ...(short === undefined ? [] : [`-${short}`])]) {
      if (type === 'boolean') {
        expect(complaint(name, ...right, `${typed}=yes`)).toContain(`${typed} takes no value (got "yes")`);
        continue;
      }
      for (const rest of [[], ['--output=json'], ['--', 'y']]) {
        expect(complaint(name, ...right, typed, ...rest)).toContain(`${typed} needs a value: ${typed} `);
      }
      if (mayBeEmpty !== true) expect(complaint(name, ...right, `${typed}=`)).toContain(`${typed} needs a value`);
    }
  });

  it.each(every)('%s --%s: of a wrong choice all right ones are listed', (name, option, { choices }, command) => {
    if (choices === undefined) return;
    const sentence = complaint(name, ...rightArguments(command), `--${option}`, 'wrong');
    expect(sentence).toContain(`--${option} is "wrong", but must be `);
    for (const choice of choices) expect(sentence).toContain(choice);
  });
});

describe('every command', () => {
  it.each(
    PROGRAM.map((command) => [command.name, command] as const),
  )('%s: each name that is missing, empty or too much is named', (name, command) => {
    const right = rightArguments(command);
    const count = command.names.length;
    expect(complaint(name, ...right, 'more')).toContain(`"more" is one argument too many: imgfuse ${name}`);
    command.names.forEach((each, index) => {
      const options = right.slice(0, right.length - count);
      const names = right.slice(right.length - count);
      const word = each.name.toUpperCase();
      const empty = [...options, ...names.slice(0, index), '', ...names.slice(index + 1)];
      expect(complaint(name, ...empty)).toContain(`the ${word} is an empty string: imgfuse ${name}`);
      if (each.optional === true) return;
      const missing = complaint(name, ...options, ...names.slice(0, index));
      expect(missing).toBe(
        `the ${word} is missing: ${missing.slice(missing.indexOf('imgfuse'), missing.indexOf(';'))}; "imgfuse ${name} --help" explains`,
      );
    });
  });
});

describe('an option', () => {
  it('that is unknown does not take the name after it with it', () => {
    expect(complaint('info', '--backing-chain', 'a.qed')).toBe(
      'info has no option --backing-chain; "imgfuse info --help" explains',
    );
    expect(complaint('mount', '--readonly', 'a.qed', 'm')).toBe(
      'mount has no option --readonly; did you mean --read-only?',
    );
  });
  it('with one dash too few is told with two, and one of the other case as it is', () => {
    expect(complaint('mount', '-format', 'qed', 'a', 'm')).toBe('mount has no option -format; did you mean --format?');
    expect(complaint('check', '-repiar=all', 'a')).toContain('check has no option -repiar; did you mean --repair?');
    expect(complaint('check', '-u', 'a')).toBe('check has no option -u; did you mean -U (--force-share)?');
    expect(complaint('info', '-Ux', 'a')).toContain('info has no option -Ux');
  });
  it('that is needed is named with its values', () => {
    expect(complaint('create', '-f', 'qed')).toContain('the IMAGE is missing');
    expect(parsed('create', '-f', 'qed', '-o', 'help')['options']).toEqual(['help']);
    const made = formats.filter(({ create }) => create !== undefined).map(({ name }) => name);
    expect(complaint('create', 'a', '1M')).toContain(`create needs the option -f ${made.join('|')}`);
    expect(complaint('remount', 'm')).toContain('remount needs the option -o rw|ro');
  });
  it('that excludes another is named as it was typed', () => {
    expect(complaint('check', '-U', '--repair=all', 'a')).toContain('--repair and -U exclude each other');
    for (const name of ['mount', 'create', 'map', 'resize']) {
      const argv = [...rightArguments(commandOf(name)), '--key-env=A', '--key-file', 'b'];
      expect(complaint(name, ...argv)).toContain('--key-file and --key-env exclude each other');
    }
  });
  it('may have its value attached or after it, and short ones may stand together', () => {
    for (const argv of [['-r', 'all'], ['-rall'], ['-r=all'], ['-qrall'], ['--repair=all'], ['--repair', 'all']]) {
      expect(parsed('check', ...argv, 'a')).toMatchObject({ repair: 'all', names: ['a'] });
    }
    expect(parsed('mount', '-oro,allow_other', 'i', 'm')['options']).toEqual(['ro,allow_other']);
  });
  it('that is given twice counts as it was given last, unless it is a list', () => {
    const { format, options } = parsed('create', '-f', 'raw', '-o', 'a=1', '-f', 'qed', '-o', 'b=2', 'x');
    expect(format).toBe('qed');
    expect(options).toEqual(['a=1', 'b=2']);
    expect(parsed('create', '-f', 'raw', '-o', 'a=1', 'x')['options']).toEqual(['a=1']);
  });
  it('keeps its value as it was typed: quotes, spaces, line ends, equals signs', () => {
    for (const value of ['"x"', "'y'", 'a b', 'a\nb', 'a=b=c', '-', '1e3', '0x10', 'true']) {
      const argv = value.startsWith('-') || value === 'true' ? [`--key-file=${value}`] : ['--key-file', value];
      expect(parsed('map', ...argv, 'i')).toMatchObject({ 'key-file': value, names: ['i'] });
      expect(parsed('create', '-f', 'qed', '-o', value, 'i')['options']).toEqual([value]);
    }
  });
  it('without a value leaves the word after it alone', () => {
    expect(parsed('check', '-q', 'true')).toEqual({ quiet: true, names: ['true'] });
  });
});

describe('names', () => {
  it('after -- are names, whatever they begin with', () => {
    expect(parsed('info', '-U', '--', '-x.qed')).toEqual({ 'force-share': true, names: ['-x.qed'] });
    expect(parsed('info', '--', '--')['names']).toEqual(['--']);
    expect(complaint('info', '--', 'a', '-U')).toContain('"-U" is one argument too many');
  });
  it('may be sizes with a minus, and a dash alone', () => {
    expect(parsed('resize', 'a', '-1G', '--shrink')).toEqual({ shrink: true, names: ['a', '-1G'] });
    expect(parsed('info', '-')['names']).toEqual(['-']);
  });
});

describe('a mount', () => {
  /** What a module loads before it runs, and what those load. */
  function loadedBy(module: string, seen = new Set<string>()): Set<string> {
    if (seen.has(module)) return seen;
    seen.add(module);
    if (!module.endsWith('.ts')) return seen;
    const text = readFileSync(module, 'utf8');
    for (const [, specifier] of text.matchAll(/^(?:import|export|\}) (?!type )(?:.* )?from '([^']+)';$/gm)) {
      loadedBy(specifier!.startsWith('.') ? join(dirname(module), specifier!) : specifier!, seen);
    }
    return seen;
  }

  it('loads neither yargs nor the other commands, because it must start fast', () => {
    const cli = fileURLToPath(new URL('../../../src/cli/', import.meta.url));
    const loaded = new Set([...loadedBy(`${cli}main.ts`), ...loadedBy(`${cli}start-mount.ts`)]);
    expect(loaded).toContain(`${cli}check-arguments.ts`);
    const heavy = [
      'yargs',
      'yargs/helpers',
      ...['all-commands', 'help', 'commands/check', 'commands/create'].map((name) => `${cli}${name}.ts`),
    ];
    expect(heavy.filter((name) => loaded.has(name))).toEqual([]);
    expect([...loadedBy(`${cli}all-commands.ts`)]).toContain(`${cli}commands/check.ts`);
    expect([...loadedBy(`${cli}all-commands.ts`)].filter((name) => name.startsWith('yargs'))).toEqual([]);
  });
});

describe('the command', () => {
  const home = process.cwd();
  let folder: string;
  beforeAll(() => {
    folder = makeTemporaryDirectory();
    process.chdir(folder);
  });
  afterAll(() => {
    process.chdir(home);
    removeTemporaryDirectory(folder);
  });
  const said = (...argv: readonly string[]): string => sentenceOf(() => chooseCommand(argv));

  it('that is mistyped is named with the right one, however many names follow', () => {
    expect(said('mont', 'a', 'b')).toBe('unknown command "mont"; did you mean "mount"?');
    expect(said('umont', 'a')).toBe('unknown command "umont"; did you mean "umount"?');
    expect(said('chek', 'a')).toBe('unknown command "chek"; did you mean "check"?');
    expect(said('satus')).toBe('unknown command "satus"; did you mean "status"?');
    expect(said('infi', '--help')).toBe('unknown command "infi"; did you mean "info"?');
    expect(said('frobnicate')).toBe('unknown command "frobnicate"; "imgfuse --help" lists the commands');
  });
  it('may be left out where an image and a mountpoint are given', () => {
    expect(said('gone.qed', 'm')).toMatch(/^the image "gone\.qed" does not exist, and no command has that name/);
    // as mount(8) calls it: the mount says that the image does not exist
    expect(chooseCommand(['gone', 'm', '-o', 'rw,dev'])).toEqual({
      command: 'mount',
      rest: ['gone', 'm', '-o', 'rw,dev'],
    });
    expect(chooseCommand(['./gone', 'm']).command).toBe('mount');
    expect(chooseCommand(['-o', 'ro', '/i', 'm']).command).toBe('mount');
    expect(chooseCommand(['--', 'status', 'm']).command).toBe('mount');
  });
  it('stands before its options, but for those of every command', () => {
    expect(chooseCommand(['--output', 'json', 'info', 'a'])).toEqual({
      command: 'info',
      rest: ['--output', 'json', 'a'],
    });
    expect(chooseCommand(['--output=json', '-h', 'info'])).toEqual({ command: 'info', rest: ['--output=json', '-h'] });
    expect(said('--shrink', 'resize', 'a b', '1M')).toBe(
      `--shrink stands before the command, but options follow it: imgfuse resize --shrink 'a b' 1M; "imgfuse resize --help" explains`,
    );
    expect(said('-f', 'qed', 'create', 'y', '1M')).toContain('imgfuse create -f qed y 1M');
    expect(said('--outptu=json', 'info', 'a')).toBe('there is no option --outptu; did you mean --output?');
  });
  it('is needed', () => {
    expect(said()).toContain('a command is needed');
    expect(said('--')).toContain('a command is needed');
    expect(said('--output=json')).toContain('a command is needed');
    expect(said('-q')).toContain('there is no option -q');
    expect(said('--hlep')).toBe('there is no option --hlep; did you mean --help?');
    for (const option of ['--help', '-h', '--version', '-V']) expect(chooseCommand([option]).command).toBeNull();
  });
});
