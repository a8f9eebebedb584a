// The type of a command: a table of its names and options. The check of the arguments (check-arguments.ts), the parser, the help
// and the completion (help.ts) use it. This file does not load yargs, because a mount by mount(8) must start fast.

/** First arguments that are commands. Any other two names are a mount. */
export const COMMANDS = [
  'mount',
  'unmount',
  'umount',
  'remount',
  'attach',
  'detach',
  'status',
  'create',
  'info',
  'check',
  'map',
  'resize',
  'commit',
  'rebase',
  'completion',
  'help',
] as const;
export type CommandName = (typeof COMMANDS)[number];

/** Stands for the program itself if the arguments have no command. */
export const PROGRAM_NAME = 'imgfuse';

/** One option of a command. */
export interface Option {
  readonly type: 'boolean' | 'string';
  readonly description: string;
  readonly short?: string;
  /** other long names, for the spelling of other tools */
  readonly aliases?: readonly string[];
  /** placeholder for the value, as in "--workers N" */
  readonly placeholder?: string;
  /** repeated values add up; of any other option the last one counts, as in qemu-img */
  readonly multiple?: boolean;
  /** an empty list is allowed */
  readonly mayBeEmpty?: boolean;
  readonly choices?: readonly string[];
  /** other words for a choice */
  readonly spellings?: Readonly<Record<string, string>>;
  readonly required?: boolean;
  /** with this value the command answers a question, and needs no names */
  readonly asks?: string;
  /** short for another option: "--options=ro" */
  readonly means?: string;
}

export type Options = Readonly<Record<string, Option>>;

/** One argument that is not an option. */
export interface Name {
  readonly name: string;
  readonly description: string;
  readonly optional?: boolean;
  readonly choices?: readonly string[];
}

/** The part of a command that the check of the arguments needs. */
export interface CommandShape {
  readonly name: CommandName | typeof PROGRAM_NAME;
  readonly names: readonly Name[];
  readonly options: Options;
  /** pairs of options of which only one may be given */
  readonly excludes?: readonly (readonly [string, string])[];
  /** the arguments after "--" are a program to run, with its own arguments */
  readonly runsProgram?: boolean;
}

export interface Command extends CommandShape {
  readonly aliases?: readonly CommandName[];
  readonly summary: string;
  /** a command line and what it does */
  readonly examples: readonly (readonly [string, string])[];
  /** text below the options, for a terminal of this width */
  readonly epilogue?: string | ((width: number) => string);
  /** @returns the exit code */
  readonly run: (args: never) => number | Promise<number>;
}

/**
 * Runs a command with its checked arguments.
 * @param given the names in their order, and the program to run
 * @param options as the command takes them
 * @returns the exit code
 */
export function runChecked(
  command: Command,
  { names, program }: { readonly names: readonly string[]; readonly program?: readonly string[] },
  options: Readonly<Record<string, unknown>>,
): number | Promise<number> {
  const named = Object.fromEntries(names.map((value, index) => [command.names[index]!.name, value]));
  return command.run({ output: 'human', ...options, ...named, ...(program === undefined ? {} : { program }) } as never);
}

export const OUTPUT_MODES = ['human', 'json'] as const;

/** Options of every command. They may also precede its name. */
export const GLOBAL_OPTIONS = {
  output: {
    type: 'string',
    choices: OUTPUT_MODES,
    placeholder: 'MODE',
    description: 'form of the output; default: human',
  },
  help: { type: 'boolean', short: 'h', description: 'show this help' },
  version: { type: 'boolean', short: 'V', description: 'show the version' },
} as const satisfies Options;

/** "imgfuse create IMAGE [SIZE]" */
export function usageOf({ name, names, runsProgram }: Omit<CommandShape, 'options'>): string {
  const words = names.map((each) =>
    each.optional === true ? `[${each.name.toUpperCase()}]` : each.name.toUpperCase(),
  );
  return [PROGRAM_NAME, name, ...words, ...(runsProgram === true ? ['[-- COMMAND...]'] : [])].join(' ');
}

export const QUIET: Option = { type: 'boolean', short: 'q', description: 'print nothing' };

/** How a command takes a mount. */
export const TARGET_NAME: Name = { name: 'target', description: 'the mountpoint, or the mounted image' };
