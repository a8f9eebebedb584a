// Runs a command whose arguments have no fault, and loads nothing but this command: not the list of all commands, and not yargs.
// What asks a running mount loads no engines: they would take longer than the answer, and a busy mount leaves little CPU time.

import { asksFor, type CheckedArguments, checkArguments } from './check-arguments.ts';
import { chooseCommand } from './choose-command.ts';
import { type Command, type CommandName, GLOBAL_OPTIONS, type Options, runChecked } from './command.ts';
import { printVersion } from './version.ts';

const unmountCommand = async (): Promise<Command> => (await import('./commands/unmount.ts')).unmountCommand;
const QUICK: Partial<Record<CommandName, () => Promise<Command>>> = {
  status: async () => (await import('./commands/status.ts')).statusCommand,
  unmount: unmountCommand,
  umount: unmountCommand,
  attach: async () => (await import('./commands/attach.ts')).attachCommand,
  detach: async () => (await import('./commands/detach.ts')).detachCommand,
  remount: async () => (await import('./commands/remount.ts')).remountCommand,
  create: async () => (await import('./commands/create.ts')).createCommand,
  info: async () => (await import('./commands/info.ts')).infoCommand,
  check: async () => (await import('./commands/check.ts')).checkCommand,
  map: async () => (await import('./commands/map.ts')).mapCommand,
  rebase: async () => (await import('./commands/rebase.ts')).rebaseCommand,
  commit: async () => (await import('./commands/commit.ts')).commitCommand,
  resize: async () => (await import('./commands/resize.ts')).resizeCommand,
};

/** A function that runs the command; null for faults, help and the commands about the program, which all-commands.ts handles. */
export async function quickCommand(argv: readonly string[]): Promise<(() => number | Promise<number>) | null> {
  let command: Command | undefined;
  let checked: CheckedArguments;
  try {
    const choice = chooseCommand(argv);
    if (choice.command === null) return asksFor('help', argv) ? null : printVersion;
    command = await QUICK[choice.command]?.();
    if (command === undefined) return null;
    checked = checkArguments(command, choice.rest);
  } catch {
    // all-commands.ts runs into the same error and can name other commands in the message
    return null;
  }
  const found = command;
  if (checked.wantsHelp) return null;
  if (checked.wantsVersion) return printVersion;
  return () => runChecked(found, checked, readOptions(found.options, checked.options));
}

/** Checked options ("--name=value", "--name") as a command takes them: lists add up; of any other option the last one counts. */
export function readOptions(table: Options, checked: readonly string[]): Record<string, unknown> {
  const all: Options = { ...GLOBAL_OPTIONS, ...table };
  const parsed: Record<string, unknown> = {};
  for (const option of checked) {
    const [, name = '', value] = /^--([^=]+)(?:=(.*))?$/s.exec(option) ?? [];
    if (all[name]?.multiple === true) parsed[name] = [...((parsed[name] as unknown[] | undefined) ?? []), value];
    else parsed[name] = value ?? true;
  }
  return parsed;
}
