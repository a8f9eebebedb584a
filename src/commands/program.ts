// The command line as yargs sees it: help, completion, complaints about arguments. Loaded only when it is needed, because
// loading yargs takes longer than mounting.

import { createRequire } from 'node:module';
import yargs, { type Argv } from 'yargs';
import { checkCommand } from './check.ts';
import { createCommand } from './create.ts';
import { EXIT_USAGE } from './exit-codes.ts';
import { infoCommand } from './info.ts';
import { mapCommand } from './map.ts';
import { mountCommand } from './mount.ts';
import { COMPLETION_OPTION } from './mount-arguments.ts';
import { complain, complainAbout } from './output.ts';
import { remountCommand } from './remount.ts';
import { resizeCommand } from './resize.ts';
import { statusCommand } from './status.ts';
import { unmountCommand } from './unmount.ts';

const COLUMNS_MAX = 100;

/** A command: how yargs parses and explains it, and what it does. */
interface Command {
  readonly command: string | readonly string[];
  readonly describe: string;
  readonly builder: (yargs: Argv) => Argv;
  /** @returns the exit code */
  readonly run: (args: never) => number | Promise<number>;
}

const PROGRAM: readonly Command[] = [
  mountCommand,
  unmountCommand,
  remountCommand,
  statusCommand,
  createCommand,
  infoCommand,
  checkCommand,
  mapCommand,
  resizeCommand,
];

/** Stands before what is a name whatever it begins with, because yargs forgets that it was behind "--"; no argument has it. */
const NAME_MARK = '\0';

/** Arguments that yargs cannot take as they are. */
export function prepareArguments(argv: readonly string[]): string[] {
  if (argv[0] === COMPLETION_OPTION) return [...argv];
  if (argv[0] === 'help') return [...argv.slice(1), '--help'];
  const end = argv.includes('--') ? argv.indexOf('--') : argv.length;
  const options = argv.slice(0, end);
  const isResize = options.includes('resize');
  const prepared = options.flatMap((argument) => {
    // -oro,allow_other: yargs would read that as many short options
    if (/^-o./.test(argument)) return ['-o', argument.slice(2)];
    // resize IMAGE -1G: that argument is a size and no option
    return [isResize && /^-\d/.test(argument) ? NAME_MARK + argument : argument];
  });
  return [...prepared, ...argv.slice(end + 1).map((name) => NAME_MARK + name)];
}

function withoutMarks(text: string): string {
  return text.replaceAll(NAME_MARK, '');
}

/** Options that add up when they are given several times; of every other one the last counts, as for qemu-img. */
const LISTS: readonly string[] = ['options', 'allow-backing'];

/** What yargs has parsed as a command takes it. */
export function plainArguments(parsed: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(parsed).map(([name, value]) => {
      const last: unknown = Array.isArray(value) && !LISTS.includes(name) ? value.at(-1) : value;
      return [name, typeof last === 'string' ? withoutMarks(last) : last];
    }),
  );
}

/** @returns the exit code */
export async function runProgram(argv: readonly string[]): Promise<number> {
  let exitCode = 0;
  // '/': yargs would ask for the working directory, which may be gone
  const parser = configure(yargs(prepareArguments(argv), '/'), argv, (code) => {
    exitCode = code;
  });
  try {
    await parser.parseAsync();
  } catch (error) {
    if (error instanceof ArgumentError) {
      complain(`${error.message}; "imgfuse ${commandOf(argv)}--help" explains`);
      return EXIT_USAGE;
    }
    complainAbout(error);
    return EXIT_USAGE;
  }
  return exitCode;
}

class ArgumentError extends Error {}

function configure(parser: Argv, argv: readonly string[], finished: (exitCode: number) => void): Argv {
  const { version } = createRequire(import.meta.url)('../../package.json') as { version: string };
  let program = parser
    .scriptName('imgfuse')
    .locale('en')
    .usage('Usage: $0 <command> [options]\n\nShows a virtual machine disk image as a plain raw file.')
    .parserConfiguration({
      'parse-numbers': false,
      'parse-positional-numbers': false,
      'greedy-arrays': false,
      'camel-case-expansion': false,
      'boolean-negation': false,
      'dot-notation': false,
    })
    .option('output', {
      choices: ['human', 'json'] as const,
      default: 'human' as const,
      requiresArg: true,
      describe: 'form of what is printed',
    })
    .wrap(Math.min(COLUMNS_MAX, process.stdout.columns ?? COLUMNS_MAX))
    .strict()
    .exitProcess(false)
    .showHelpOnFail(false)
    .fail((message, error) => {
      // a message alone is yargs complaining about the arguments; an error comes from a command
      throw error instanceof Error && error.name !== 'YError' ? error : explain(message ?? error?.message, argv);
    })
    .help()
    .alias('help', 'h')
    .version(version)
    .completion('completion', 'Print a completion script for the shell (bash, zsh)')
    .demandCommand(1, 'a command is needed')
    .example('$0 mount disk.qed /mnt/img', 'disk.qed appears as /mnt/img/disk.raw')
    .example('mount -o loop,offset=1048576 /mnt/img/disk.raw /mnt/guest', 'its first partition')
    .example('umount /mnt/guest && $0 unmount /mnt/img', 'the image is flushed, clean and unlocked')
    .epilogue('imgfuse IMAGE MOUNTPOINT [-o OPTS] is short for mount; mount -t fuse.imgfuse and fstab use it.');
  for (const { command, describe, builder, run } of PROGRAM) {
    program = program.command({
      command,
      describe,
      builder,
      handler: async (args) => finished(await run(plainArguments(args) as never)),
    });
  }
  return program;
}

/** What yargs says about arguments, in our words. */
const COMPLAINTS: readonly (readonly [RegExp, string])[] = [
  [/^Unknown arguments?: (.*)$/s, 'there is no option $1'],
  [/^Unknown commands?: (.*)$/s, 'there is no command $1'],
  [/^Not enough non-option arguments: .*$/s, 'an argument is missing'],
  [/^Not enough arguments following: (.*)$/s, 'the option $1 needs a value'],
  [/^Missing required arguments?: (.*)$/s, 'the option $1 is needed'],
  [/^Arguments (\S+) and (\S+) are mutually exclusive$/s, '--$1 and --$2 exclude each other'],
  [/^Invalid values:\s*Argument: ([^,]+), Given: (.*), Choices: (.*)$/s, '--$1 is $2, but must be one of $3'],
];

function explain(message: string | undefined, argv: readonly string[]): ArgumentError {
  const text = withoutMarks(message ?? 'the arguments are not understood');
  for (const [pattern, words] of COMPLAINTS) {
    const names = pattern.exec(text)?.[1];
    if (names === undefined && !pattern.test(text)) continue;
    if (words.includes('option') && names !== undefined) return explainNames(words, names.split(', '), argv);
    return new ArgumentError(text.replace(pattern, words).replace(/\s+/g, ' '));
  }
  return new ArgumentError(text.replace(/\s+/g, ' '));
}

/** yargs calls options and words alike "arguments", without their dashes; what was typed tells them apart. */
function explainNames(words: string, names: readonly string[], argv: readonly string[]): ArgumentError {
  const word = names.find((name) => argv.includes(name) && words.includes('no option'));
  if (word !== undefined) {
    return new ArgumentError(argv[0] === word ? `there is no command "${word}"` : `"${word}" is one argument too many`);
  }
  const options = [...new Set(names)].map((name) => (name.length === 1 ? `-${name}` : `--${name}`));
  return new ArgumentError(words.replace('$1', options.join(', ')));
}

function commandOf(argv: readonly string[]): string {
  const word = argv.find((argument) => !argument.startsWith('-'));
  const known = PROGRAM.flatMap(({ command }) => command).map((usage) => usage.split(' ')[0]);
  return word !== undefined && known.includes(word) ? `${word} ` : '';
}
