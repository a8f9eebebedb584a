// Help and completion: yargs makes their text from the tables of the commands. The file is loaded only if needed, because loading
// yargs takes longer than mounting. Invariant: yargs prints nothing itself; print() does, because it tells a full disk from a
// reader that has closed its pipe.

import yargs, { type Argv, type Options as YargsOptions } from 'yargs';
import { type Command, GLOBAL_OPTIONS, type Name, type Option, PROGRAM_NAME } from './command.ts';
import { print } from './output.ts';
import { helpWidth } from './text-layout.ts';

/** The hidden yargs command that prints the completion script; our own command for that has a help. */
const SCRIPT_COMMAND = 'print-completion-script';

/** Prints the help of a command, or of the program. */
export async function printHelp(commands: readonly Command[], name: string | null): Promise<void> {
  print(await textOf(commands, name === null ? ['--help'] : [name, '--help']));
}

/** Prints a script for the shell that completes the commands and their options. */
export async function printCompletion(commands: readonly Command[], shell: string | undefined): Promise<void> {
  // yargs takes the name of the shell only from here
  if (shell !== undefined) process.env['SHELL'] = shell;
  delete process.env['ZSH_NAME'];
  const script = await textOf(commands, [SCRIPT_COMMAND]);
  // without -f fish also completes names of files, and images are files
  print(script.replaceAll(SCRIPT_COMMAND, 'completion').replace('complete -f -c', 'complete -c'));
}

/** Prints the words that can complete a command line; the shell asks for them with COMPLETION_OPTION. */
export async function printWords(commands: readonly Command[], argv: readonly string[]): Promise<void> {
  const words = await textOf(commands, argv);
  if (words !== '') print(words);
}

/** The text that yargs would print. It calls back twice for a completion, the first time without text. */
async function textOf(commands: readonly Command[], argv: readonly string[]): Promise<string> {
  const texts: string[] = [];
  await describeProgram(commands).parse(
    [...argv],
    {},
    (error: Error | null | undefined, _args: unknown, text: string) => {
      if (error instanceof Error) throw error;
      if (text !== '') texts.push(text);
    },
  );
  return texts.join('\n');
}

function describeProgram(commands: readonly Command[]): Argv {
  const width = helpWidth();
  // '/': yargs would ask for the working directory, which may be gone
  let program = yargs([], '/')
    .scriptName(PROGRAM_NAME)
    .locale('en')
    .usage('Usage: $0 <command> [options]\n\nShows a virtual machine disk image as a plain raw file.')
    .parserConfiguration({ 'boolean-negation': false, 'camel-case-expansion': false, 'dot-notation': false })
    .option('output', describeOption(GLOBAL_OPTIONS.output))
    .help('help', GLOBAL_OPTIONS.help.description)
    .alias('help', GLOBAL_OPTIONS.help.short)
    .version('version', GLOBAL_OPTIONS.version.description, '')
    .alias('version', GLOBAL_OPTIONS.version.short)
    .wrap(width)
    .exitProcess(false)
    .completion(SCRIPT_COMMAND, false)
    .example('$0 mount disk.qed /mnt/img', 'disk.qed appears as /mnt/img/disk.raw')
    .example('$0 unmount /mnt/img', 'the image is flushed, clean and unlocked')
    .example('$0 attach disk.qed /mnt/guest', "the guest's files; detach takes all of it back")
    .epilogue('imgfuse IMAGE MOUNTPOINT [-o OPTS] is short for mount; mount -t fuse.imgfuse and fstab use it.');
  for (const command of commands) {
    program = program.command({
      command: [command.name, ...(command.aliases ?? [])].map((name) => commandPattern(name, command.names)),
      describe: command.summary,
      builder: (parser: Argv) => describeCommand(parser, command, width),
      handler: () => {},
    });
  }
  return program;
}

/** "create <image> [size]" */
function commandPattern(command: string, names: readonly Name[]): string {
  return [command, ...names.map(({ name, optional }) => (optional === true ? `[${name}]` : `<${name}>`))].join(' ');
}

function describeCommand(parser: Argv, command: Command, width: number): Argv {
  let program = parser;
  for (const { name, description, choices } of command.names) {
    program = program.positional(name, {
      type: 'string',
      describe: description,
      ...(choices === undefined ? {} : { choices }),
    });
  }
  for (const [name, option] of Object.entries(command.options)) program = program.option(name, describeOption(option));
  for (const [line, description] of command.examples) program = program.example(line, description);
  const { epilogue } = command;
  if (epilogue === undefined) return program;
  return program.epilogue(typeof epilogue === 'string' ? epilogue : epilogue(width));
}

function describeOption({ type, description, short, aliases, multiple, choices, required }: Option): YargsOptions {
  const names = [...(short === undefined ? [] : [short]), ...(aliases ?? [])];
  return {
    type: multiple === true ? 'array' : type,
    describe: description,
    ...(multiple === true ? { string: true } : {}),
    ...(names.length === 0 ? {} : { alias: names }),
    ...(choices === undefined ? {} : { choices }),
    ...(required === true ? { demandOption: true } : {}),
  };
}
