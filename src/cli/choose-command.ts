// Finds the command that the arguments mean. Only the first name decides: it is a command, or the image of a mount without the
// word `mount`, as mount(8) and fstab call the program.

import { parseArgs } from 'node:util';
import { shellQuote } from '../bytes/printable.ts';
import { ImgfuseError, nearestWord } from '../errors/index.ts';
import { pathKind } from '../host/canonical-path.ts';
import { ArgumentError, asksFor, UnknownOptionError } from './check-arguments.ts';
import { COMMANDS, type CommandName, type CommandShape, GLOBAL_OPTIONS, PROGRAM_NAME } from './command.ts';
import { MOUNT_ARGUMENTS } from './mount-arguments.ts';

const PROGRAM_SHAPE: CommandShape = { name: PROGRAM_NAME, names: [], options: {} };

/** null for the help or the version of the program. */
export interface Choice {
  readonly command: CommandName | null;
  readonly rest: readonly string[];
}

/** @throws ImgfuseError usage, missing: says what the first name is not, and suggests what it may mean */
export function chooseCommand(argv: readonly string[]): Choice {
  const index = globalOptionsBefore(argv);
  const word = argv[index];
  if (isCommand(word)) return { command: word, rest: [...argv.slice(0, index), ...argv.slice(index + 1)] };
  const names = namesOf(argv);
  if (names.length === 0) {
    if (asksFor('help', argv) || asksFor('version', argv)) return { command: null, rest: argv };
    throw noCommand(argv);
  }
  assertNothingBeforeCommand(argv, names);
  if (isBareMount(argv, names)) return { command: 'mount', rest: argv };
  throw unknownCommand(names);
}

/** `unknown command "mont"; did you mean "mount"?` */
export function unknownCommand(names: readonly string[]): ImgfuseError {
  const [first = '', mountpoint, ...more] = names;
  const nearest = nearestWord(first, COMMANDS);
  if (nearest !== undefined) return new ArgumentError(`unknown command "${first}"; did you mean "${nearest}"?`);
  if (mountpoint === undefined || more.length > 0)
    return new ArgumentError(`unknown command "${first}"; "imgfuse --help" lists the commands`);
  return new MissingImageError(first);
}

/** The first of two names is neither a command nor an image. */
export class MissingImageError extends ImgfuseError {
  constructor(name: string) {
    const sentence = `the image "${name}" does not exist, and no command has that name`;
    super('missing', `${sentence}; "imgfuse --help" lists the commands`, { path: name });
  }
}

export function isCommand(word: string | undefined): word is CommandName {
  return (COMMANDS as readonly (string | undefined)[]).includes(word);
}

/** The number of arguments at the start that are options of every command. */
function globalOptionsBefore(argv: readonly string[]): number {
  let index = 0;
  while (index < argv.length) {
    const argument = argv[index]!;
    if (argument === '--output') index += 2;
    else if (argument.startsWith('--output=') || asksFor('help', [argument]) || asksFor('version', [argument])) index++;
    else break;
  }
  return index;
}

/** The arguments that are neither an option of a mount nor the value of one. */
function namesOf(argv: readonly string[]): string[] {
  const options = { ...MOUNT_ARGUMENTS, ...GLOBAL_OPTIONS };
  const { positionals } = parseArgs({ args: [...argv], options, strict: false, allowPositionals: true });
  return positionals;
}

/** Never guesses a command from its arguments: -f means one thing to `mount` and another to `create`. */
function assertNothingBeforeCommand(argv: readonly string[], names: readonly string[]): void {
  const [option] = argv;
  const at = argv.findIndex((argument) => isCommand(argument));
  const isEnded = argv.indexOf('--') >= 0 && argv.indexOf('--') < at;
  if (option === undefined || !option.startsWith('-') || at < 0 || isEnded) return;
  if (!isCommand(names[0]) && looksLikeImage(names[0]!)) return;
  // a mistyped option such as --outptu may be an option of every command
  if (nearestWord(typedName(option), Object.keys(GLOBAL_OPTIONS)) !== undefined) {
    throw new UnknownOptionError(typedName(option), PROGRAM_SHAPE);
  }
  const line = [argv[at]!, ...argv.slice(0, at), ...argv.slice(at + 1)].map(shellQuote).join(' ');
  throw new ArgumentError(`${option} stands before the command, but options follow it: imgfuse ${line}`, argv[at]);
}

function looksLikeImage(name: string): boolean {
  return name.includes('/') || pathKind(name) !== 'missing';
}

/** A name after "--" is not a command. With -o the caller is mount(8), and the mount reports a missing image better. */
function isBareMount(argv: readonly string[], names: readonly string[]): boolean {
  const hasOptions = argv.some((argument) => /^(-o|--options$|--options=)/.test(argument));
  const end = argv.indexOf('--');
  const isEnded = end >= 0 && namesOf(argv.slice(0, end)).length === 0;
  return isEnded || looksLikeImage(names[0]!) || (names.length === 2 && hasOptions);
}

function noCommand(argv: readonly string[]): ArgumentError {
  const option = argv.find((argument) => /^-./.test(argument) && argument !== '--' && !argument.startsWith('--output'));
  if (option === undefined) return new ArgumentError('a command is needed');
  return new UnknownOptionError(typedName(option), PROGRAM_SHAPE);
}

function typedName(option: string): string {
  return option.replace(/=.*$/s, '');
}
