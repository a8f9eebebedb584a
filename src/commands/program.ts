// The command line as yargs sees it: help, completion, complaints about arguments. Loaded only when it is needed, because
// loading yargs takes longer than mounting.

import { createRequire } from 'node:module';
import yargs, { type Argv } from 'yargs';
import { ImgfuseError } from '../errors/index.ts';
import { checkCommand } from './check.ts';
import { createCommand } from './create.ts';
import { EXIT_USAGE } from './exit-codes.ts';
import { infoCommand } from './info.ts';
import { mapCommand } from './map.ts';
import { mountCommand } from './mount.ts';
import { complain, complainAbout } from './output.ts';
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
  statusCommand,
  createCommand,
  infoCommand,
  checkCommand,
  mapCommand,
  resizeCommand,
];

/** Arguments that yargs cannot take as they are. */
export function prepareArguments(argv: readonly string[]): string[] {
  const prepared = argv.flatMap((argument) =>
    // -oro,allow_other: yargs would read that as many short options
    /^-o./.test(argument) && argument !== '-o' ? ['-o', argument.slice(2)] : [argument],
  );
  // resize IMAGE -1G: the last argument is a size and not an option
  if (prepared[0] === 'resize' && /^-\d/.test(prepared.at(-1) ?? '')) prepared.splice(-1, 0, '--');
  return prepared;
}

/** @returns the exit code */
export async function runProgram(argv: readonly string[]): Promise<number> {
  let exitCode = 0;
  const parser = configure(yargs(prepareArguments(argv)), (code) => {
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

function configure(parser: Argv, finished: (exitCode: number) => void): Argv {
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
      throw error instanceof ImgfuseError || (error?.stack !== undefined && message === null)
        ? error
        : explain(message ?? error?.message);
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
      handler: async (args) => finished(await run(args as never)),
    });
  }
  return program;
}

function explain(message: string | undefined): ArgumentError {
  return new ArgumentError(
    (message ?? 'the arguments are not understood')
      .replace(/^Unknown arguments?: (.*)$/s, (_, names: string) => `there is no option ${optionNames(names)}`)
      .replace(/^Unknown commands?: /, 'there is no command ')
      .replace(/^Not enough non-option arguments: got (\d+), need at least (\d+)$/, 'an argument is missing')
      .replace(
        /^Not enough arguments following: (.*)$/,
        (_, name: string) => `the option ${optionNames(name)} needs a value`,
      )
      .replace(
        /^Invalid values:\s*Argument: ([^,]+), Given: (.*), Choices: (.*)$/s,
        '--$1 is $2, but must be one of $3',
      )
      .replace(/\s+/g, ' '),
  );
}

function optionNames(names: string): string {
  return [...new Set(names.split(', '))].map((name) => (name.length === 1 ? `-${name}` : `--${name}`)).join(', ');
}

function commandOf(argv: readonly string[]): string {
  const word = argv.find((argument) => !argument.startsWith('-'));
  const known = PROGRAM.flatMap(({ command }) => command).map((usage) => usage.split(' ')[0]);
  return word !== undefined && known.includes(word) ? `${word} ` : '';
}
