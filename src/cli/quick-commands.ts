// Runs commands that ask a running mount, without loading the list of all commands: loading the engines would take several times
// as long as the answer, and a busy mount leaves little CPU time.

import { type CheckedArguments, checkArguments } from './check-arguments.ts';
import { chooseCommand } from './choose-command.ts';
import { type Command, type CommandName, GLOBAL_OPTIONS, type Options, runChecked } from './command.ts';

const unmountCommand = async (): Promise<Command> => (await import('./commands/unmount.ts')).unmountCommand;
const QUICK: Partial<Record<CommandName, () => Promise<Command>>> = {
  status: async () => (await import('./commands/status.ts')).statusCommand,
  unmount: unmountCommand,
  umount: unmountCommand,
  remount: async () => (await import('./commands/remount.ts')).remountCommand,
};

/** A function that runs a command without engines; null for other commands, faults and help, which all-commands.ts handles. */
export async function quickCommand(argv: readonly string[]): Promise<(() => number | Promise<number>) | null> {
  let command: Command | undefined;
  let checked: CheckedArguments;
  try {
    const choice = chooseCommand(argv);
    command = choice.command === null ? undefined : await QUICK[choice.command]?.();
    if (command === undefined) return null;
    checked = checkArguments(command, choice.rest);
  } catch {
    // all-commands.ts runs into the same error and can name other commands in the message
    return null;
  }
  const found = command;
  if (checked.wantsHelp || checked.wantsVersion) return null;
  return () => runChecked(found, checked.names, readOptions(found.options, checked.options));
}

/** Like parseOptions() of all-commands.ts, but without yargs, which takes too long to load. */
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
