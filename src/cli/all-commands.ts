// The list of all commands; parses the arguments of one and runs it. quick-commands.ts runs most of them without this list.

import { EXIT_MOUNT, EXIT_OK, EXIT_USAGE } from '../errors/exit-codes.ts';
import { ArgumentError, asksFor, checkArguments, UnknownOptionError } from './check-arguments.ts';
import { type Choice, chooseCommand, isCommand, MissingImageError, unknownCommand } from './choose-command.ts';
import { type Command, type CommandName, runChecked } from './command.ts';
import { attachCommand } from './commands/attach.ts';
import { checkCommand } from './commands/check.ts';
import { commitCommand } from './commands/commit.ts';
import { createCommand } from './commands/create.ts';
import { detachCommand } from './commands/detach.ts';
import { infoCommand } from './commands/info.ts';
import { mapCommand } from './commands/map.ts';
import { mountCommand } from './commands/mount.ts';
import { rebaseCommand } from './commands/rebase.ts';
import { remountCommand } from './commands/remount.ts';
import { resizeCommand } from './commands/resize.ts';
import { statusCommand } from './commands/status.ts';
import { unmountCommand } from './commands/unmount.ts';
import { COMPLETION_OPTION } from './mount-arguments.ts';
import { answered, complainAbout } from './output.ts';
import { readOptions } from './quick-commands.ts';
import { printVersion } from './version.ts';

const completionCommand: Command = {
  name: 'completion',
  summary: 'Print a completion script for the shell',
  names: [
    {
      name: 'shell',
      description: 'default: the shell in the variable SHELL',
      optional: true,
      choices: ['bash', 'zsh', 'fish'],
    },
  ],
  options: {},
  examples: [['imgfuse completion >> ~/.bashrc', 'the next shell completes commands and options']],
  run: async ({ shell }: { readonly shell?: string }): Promise<number> => {
    const { printCompletion } = await import('./help.ts');
    await printCompletion(PROGRAM, shell);
    return answered(EXIT_OK);
  },
};

const helpCommand: Command = {
  name: 'help',
  summary: 'Explain a command',
  names: [{ name: 'command', description: 'without it: the list of commands', optional: true }],
  options: {},
  examples: [['imgfuse help mount', '']],
  run: ({ command }: { readonly command?: string }): Promise<number> => {
    if (command !== undefined && !isCommand(command)) throw unknownCommand([command]);
    return help(command ?? null);
  },
};

/** Every command, in the order of the help. */
export const PROGRAM: readonly Command[] = [
  mountCommand,
  unmountCommand,
  remountCommand,
  attachCommand,
  detachCommand,
  statusCommand,
  createCommand,
  infoCommand,
  checkCommand,
  mapCommand,
  resizeCommand,
  commitCommand,
  rebaseCommand,
  completionCommand,
  helpCommand,
];

/** @returns the exit code */
export async function runProgram(argv: readonly string[]): Promise<number> {
  try {
    if (argv[0] === COMPLETION_OPTION) {
      const { printWords } = await import('./help.ts');
      await printWords(PROGRAM, argv);
      return EXIT_OK;
    }
    return await runChosen(chooseCommand(argv));
  } catch (error) {
    complainAbout(error);
    return error instanceof MissingImageError ? EXIT_MOUNT : EXIT_USAGE;
  }
}

function runChosen({ command, rest }: Choice): number | Promise<number> {
  if (command !== null) return runCommand(command, rest);
  return asksFor('help', rest) ? help(null) : printVersion();
}

async function runCommand(name: CommandName, argv: readonly string[]): Promise<number> {
  const command = PROGRAM.find((each) => each.name === name || each.aliases?.includes(name))!;
  const checked = check(command, argv);
  if (checked.wantsHelp) return help(name);
  if (checked.wantsVersion) return printVersion();
  return runChecked(command, checked, readOptions(command.options, checked.options));
}

/** Improves the message for an unknown option: it names the commands that have it. */
function check(command: Command, argv: readonly string[]): ReturnType<typeof checkArguments> {
  try {
    return checkArguments(command, argv);
  } catch (error) {
    if (!(error instanceof UnknownOptionError)) throw error;
    const name = error.typed.replace(/^--/, '');
    const owners = PROGRAM.filter(({ options }) => Object.hasOwn(options, name)).map((each) => each.name);
    if (owners.length === 0) throw error;
    throw new ArgumentError(`${command.name} has no option ${error.typed}, only ${owners.join(', ')}`, command.name);
  }
}

async function help(name: string | null): Promise<number> {
  const { printHelp } = await import('./help.ts');
  await printHelp(PROGRAM, name);
  return answered(EXIT_OK);
}
