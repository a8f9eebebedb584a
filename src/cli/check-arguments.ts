// Checks a command's arguments against its table. Every error about an unknown option, a missing value or a wrong number of names
// comes from here. Arguments that pass get one spelling, so that no parser has to guess.

import { didYouMean, ImgfuseError, nearestWord } from '../errors/index.ts';
import { type CommandShape, GLOBAL_OPTIONS, type Name, type Option, PROGRAM_NAME, usageOf } from './command.ts';

/** Arguments that passed. */
export interface CheckedArguments {
  /** each one "--name" or "--name=value", in the order in which they were typed */
  readonly options: readonly string[];
  readonly names: readonly string[];
  /** the program after "--", for a command that runs one */
  readonly program?: readonly string[];
  readonly wantsHelp: boolean;
  readonly wantsVersion: boolean;
}

/** An option, as typed and as in the table. */
interface FoundOption {
  /** as typed, without its value: "-f", "--format" */
  readonly typed: string;
  readonly name: string;
  readonly option: Option;
  readonly value?: string | undefined;
}

/** A usage error that names the help to read. */
export class ArgumentError extends ImgfuseError {
  constructor(sentence: string, command?: string) {
    const help = command === undefined || command === PROGRAM_NAME ? 'imgfuse --help' : `imgfuse ${command} --help`;
    super('usage', /\?$|--help" lists/.test(sentence) ? sentence : `${sentence}; "${help}" explains`);
  }
}

/** An option that the command does not have. */
export class UnknownOptionError extends ArgumentError {
  readonly typed: string;

  constructor(typed: string, shape: CommandShape, hint = suggestOption(typed, shape)) {
    const subject = shape.name === PROGRAM_NAME ? 'there is' : `${shape.name} has`;
    super(`${subject} no option ${typed}${hint}`, shape.name);
    this.typed = typed;
  }
}

/**
 * Checks the arguments of a command. With --help or --version among them, nothing else is looked at.
 * @throws ImgfuseError usage: one sentence that names the argument, and the nearest right one
 */
export function checkArguments(shape: CommandShape, argv: readonly string[]): CheckedArguments {
  const wantsHelp = asksFor('help', argv);
  const wantsVersion = !wantsHelp && asksFor('version', argv);
  if (wantsHelp || wantsVersion) return { options: [], names: [], wantsHelp, wantsVersion };
  const names: string[] = [];
  const found: FoundOption[] = [];
  let program: readonly string[] | undefined;
  for (let index = 0; index < argv.length; index++) {
    const argument = argv[index]!;
    if (argument === '--') {
      if (shape.runsProgram === true) program = argv.slice(index + 1);
      else names.push(...argv.slice(index + 1));
      break;
    }
    // resize IMAGE -1G: this argument is a size, because no option is a digit
    if (argument === '-' || !argument.startsWith('-') || /^-\d/.test(argument)) {
      names.push(argument);
      continue;
    }
    const options = argument.startsWith('--') ? [longOption(argument, shape)] : shortOptions(argument, shape);
    const last = options.at(-1)!;
    if (last.option.type === 'string' && last.value === undefined) {
      options[options.length - 1] = { ...last, value: valueAfter(last, argv[++index], shape) };
    }
    found.push(...options);
  }
  for (const option of found) checkValue(option, shape);
  checkOptions(found, shape);
  if (program?.length === 0) throw new ArgumentError(`no COMMAND follows "--": ${usageOf(shape)}`, shape.name);
  checkNames(
    names,
    shape,
    found.some(({ option, value }) => value !== undefined && value === option.asks),
  );
  const options = found.map(canonicalOption);
  return { options, names, ...(program === undefined ? {} : { program }), wantsHelp, wantsVersion };
}

/** Whether --help or --version is among the options, even if the other arguments are wrong. */
export function asksFor(name: 'help' | 'version', argv: readonly string[]): boolean {
  const end = argv.indexOf('--');
  const options = end < 0 ? argv : argv.slice(0, end);
  return options.includes(`--${name}`) || options.includes(`-${GLOBAL_OPTIONS[name].short}`);
}

function allOptions({ options }: CommandShape): [string, Option][] {
  return Object.entries<Option>({ ...GLOBAL_OPTIONS, ...options });
}

function findLong(name: string, { options }: CommandShape): [string, Option] | undefined {
  if (Object.hasOwn(options, name)) return [name, options[name]!];
  if (Object.hasOwn(GLOBAL_OPTIONS, name)) return [name, GLOBAL_OPTIONS[name as keyof typeof GLOBAL_OPTIONS]];
  return Object.entries(options).find(([, option]) => option.aliases?.includes(name));
}

function longOption(argument: string, shape: CommandShape): FoundOption {
  const equals = argument.indexOf('=');
  const typed = equals < 0 ? argument : argument.slice(0, equals);
  const value = equals < 0 ? undefined : argument.slice(equals + 1);
  const known = findLong(typed.slice(2), shape);
  if (known === undefined) throw new UnknownOptionError(typed, shape);
  const [name, option] = known;
  if (option.type === 'boolean' && value !== undefined) {
    throw new ArgumentError(`${typed} takes no value (got "${value}")`, shape.name);
  }
  return { typed, name, option, value };
}

/** "-f", "-fqed", "-Uf", "-oro,share": letters up to the first that takes a value, which is the rest. */
function shortOptions(argument: string, shape: CommandShape): FoundOption[] {
  const word = argument.slice(1).replace(/=.*$/s, '');
  if (word.length > 1 && findLong(word, shape) !== undefined) {
    throw new UnknownOptionError(`-${word}`, shape, `; did you mean --${word}?`);
  }
  const found: FoundOption[] = [];
  for (let index = 1; index < argument.length; index++) {
    const letter = argument[index]!;
    const known = allOptions(shape).find(([, { short }]) => short === letter);
    if (known === undefined) {
      throw new UnknownOptionError(index === 1 && argument.length === 2 ? argument : `-${word}`, shape);
    }
    const [name, option] = known;
    const rest = argument.slice(index + 1);
    if (option.type === 'string') {
      const value = rest === '' ? undefined : rest.replace(/^=/, '');
      // -repiar=all is a mistyped --repair rather than -r with a value
      const isWrong =
        value !== undefined && word.length > 2 && option.choices?.includes(spelled(value, option)) === false;
      if (isWrong && suggestOption(word, shape) !== '') throw new UnknownOptionError(`-${word}`, shape);
      found.push({ typed: `-${letter}`, name, option, value });
      break;
    }
    if (rest.startsWith('=')) throw new ArgumentError(`-${letter} takes no value (got "${rest.slice(1)}")`, shape.name);
    found.push({ typed: `-${letter}`, name, option });
  }
  return found;
}

/** The argument after an option is its value, unless it is an option itself. */
function valueAfter(found: FoundOption, next: string | undefined, shape: CommandShape): string {
  if (next === undefined || /^-\D/.test(next)) throw missingValue(found, shape);
  return next;
}

function missingValue({ typed, name, option }: FoundOption, shape: CommandShape): ArgumentError {
  const value = option.choices?.join('|') ?? option.placeholder ?? name.toUpperCase();
  return new ArgumentError(`${typed} needs a value: ${typed} ${value}`, shape.name);
}

function checkValue(found: FoundOption, shape: CommandShape): void {
  const { typed, option, value } = found;
  if (value === undefined) return;
  if (value === '' && option.mayBeEmpty !== true) throw missingValue(found, shape);
  const { choices } = option;
  if (choices === undefined || choices.includes(spelled(value, option))) return;
  throw new ArgumentError(
    `${typed} is "${value}", but must be ${alternatives(choices)}${didYouMean(value, choices)}`,
    shape.name,
  );
}

function checkOptions(found: readonly FoundOption[], shape: CommandShape): void {
  for (const [name, option] of Object.entries(shape.options)) {
    if (option.required !== true || found.some((each) => each.name === name)) continue;
    const typed = option.short === undefined ? `--${name}` : `-${option.short}`;
    const value = option.choices?.join('|') ?? option.placeholder ?? name.toUpperCase();
    throw new ArgumentError(`${shape.name} needs the option ${typed} ${value}`, shape.name);
  }
  for (const [one, other] of shape.excludes ?? []) {
    const first = found.find(({ name }) => name === one);
    const second = found.find(({ name }) => name === other);
    if (first === undefined || second === undefined) continue;
    throw new ArgumentError(`${first.typed} and ${second.typed} exclude each other`, shape.name);
  }
}

function checkNames(names: readonly string[], shape: CommandShape, isQuestion: boolean): void {
  const usage = usageOf(shape);
  const extra = names[shape.names.length];
  if (extra !== undefined) throw new ArgumentError(`"${extra}" is one argument too many: ${usage}`, shape.name);
  shape.names.forEach((name, index) => {
    if (!isQuestion || names[index] !== undefined) checkName(name, names[index], usage, shape);
  });
}

function checkName(name: Name, given: string | undefined, usage: string, shape: CommandShape): void {
  const word = name.name.toUpperCase();
  if (given === undefined) {
    if (name.optional === true) return;
    throw new ArgumentError(`the ${word} is missing: ${usage}`, shape.name);
  }
  if (given === '') throw new ArgumentError(`the ${word} is an empty string: ${usage}`, shape.name);
  if (name.choices === undefined || name.choices.includes(given)) return;
  const hint = didYouMean(given, name.choices);
  throw new ArgumentError(`the ${word} is "${given}", but must be ${alternatives(name.choices)}${hint}`, shape.name);
}

function canonicalOption({ name, option, value }: FoundOption): string {
  if (option.means !== undefined) return option.means;
  return value === undefined ? `--${name}` : `--${name}=${spelled(value, option)}`;
}

/** The choice that a word stands for, or the word. */
function spelled(value: string, { spellings = {} }: Option): string {
  return Object.hasOwn(spellings, value) ? spellings[value]! : value;
}

/** "; did you mean --repair?": the nearest long name, or the short one of the other case. */
function suggestOption(typed: string, shape: CommandShape): string {
  const all = allOptions(shape);
  const word = typed.replace(/^-+/, '');
  if (word.length === 1) {
    const other = all.find(([, { short }]) => short?.toLowerCase() === word.toLowerCase());
    return other === undefined ? '' : `; did you mean -${other[1].short} (--${other[0]})?`;
  }
  const nearest = nearestWord(
    word,
    all.flatMap(([name, { aliases }]) => [name, ...(aliases ?? [])]),
  );
  return nearest === undefined ? '' : `; did you mean --${nearest}?`;
}

/** "leaks or all" */
function alternatives(choices: readonly string[]): string {
  return choices.length < 2 ? choices.join('') : `${choices.slice(0, -1).join(', ')} or ${choices.at(-1)}`;
}
