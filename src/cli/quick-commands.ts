// One command with its checked arguments. Commands that ask a running mount are run from here without the list of all: loading
// the engines takes several times as long as the answer, and beside a busy mount there is little time to be had.

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

/** How to run a command that needs no engine; null for every other one, for faults and for help: see all-commands.ts. */
export async function quickCommand(argv: readonly string[]): Promise<(() => number | Promise<number>) | null> {
  let command: Command | undefined;
  let checked: CheckedArguments;
  try {
    const choice = chooseCommand(argv);
    command = choice.command === null ? undefined : await QUICK[choice.command]?.();
    if (command === undefined) return null;
    checked = checkArguments(command, choice.rest);
  } catch {
    // all-commands.ts meets the same error, and knows all commands when it explains it
    return null;
  }
  const found = command;
  if (checked.wantsHelp || checked.wantsVersion) return null;
  return () => runChecked(found, checked.names, readOptions(found.options, checked.options));
}

/** What parseOptions() of all-commands.ts makes of checked options, without yargs, which takes too long to load. */
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
