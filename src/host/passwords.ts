// Where the password of an encrypted image comes from: a file, an environment variable, or a person at the terminal. Never
// from the command line, which everybody can read. A mount process is handed it over its report channel, so it is neither in
// its arguments nor in its environment. Invariant: every caller gets a copy of its own, which it may overwrite.

import { spawnSync } from 'node:child_process';
import { ImgfuseError } from '../errors/index.ts';
import { closeDescriptor, openTerminal } from './descriptors.ts';
import { readBytes } from './small-files.ts';

/** cryptsetup takes key files of 8 MiB at most. */
const MAX_KEY_BYTES = 8 * 1024 * 1024;

export interface PasswordArguments {
  readonly 'key-file'?: string | undefined;
  readonly 'key-env'?: string | undefined;
}

/** The password of an image by its path. Throws permission, with the path, if there is none. */
export type PasswordOf = (imagePath: string) => Uint8Array;

/** `operation` of the error for a password that is missing. */
export const PASSWORD_NEEDED = 'password';

/** The password that the options name, for every image of a chain; null if they name none. @throws usage, missing, permission */
export function givenPassword({ 'key-file': file, 'key-env': variable }: PasswordArguments): Uint8Array | null {
  if (file !== undefined && variable !== undefined) {
    throw new ImgfuseError('usage', '--key-file and --key-env exclude each other');
  }
  if (file !== undefined) return checked(readKeyFile(file), `the key file ${file}`);
  if (variable === undefined) return null;
  const value = process.env[variable];
  if (value === undefined) {
    throw new ImgfuseError('missing', `the environment variable ${variable} of --key-env is not set`);
  }
  // not for the threads and processes that this one starts
  delete process.env[variable];
  return checked(new TextEncoder().encode(value), `the environment variable ${variable}`);
}

function readKeyFile(file: string): Uint8Array {
  try {
    return readBytes(file, MAX_KEY_BYTES + 1);
  } catch (cause) {
    const kind = (cause as NodeJS.ErrnoException).code === 'EACCES' ? 'permission' : 'missing';
    throw new ImgfuseError(kind, `the key file ${file} cannot be read`, { path: file }, cause);
  }
}

function checked(password: Uint8Array, what: string): Uint8Array {
  if (password.length === 0) throw new ImgfuseError('usage', `${what} is empty, and an image has no empty password`);
  if (password.length <= MAX_KEY_BYTES) return password;
  throw new ImgfuseError('usage', `${what} is larger than ${MAX_KEY_BYTES} bytes; it is no password`);
}

/** Where the passwords of a mount come from, as plain data: it is passed to the thread that opens the image. */
export interface PasswordSource {
  /** for every image; null if none was given */
  readonly given: Uint8Array | null;
  readonly byImage: ReadonlyMap<string, Uint8Array>;
  /** a person at the terminal may be asked for a password that is missing */
  readonly mayAsk: boolean;
}

/** Asks once for each image. */
export function passwordFrom({ given, byImage, mayAsk }: PasswordSource): PasswordOf {
  const known = new Map(byImage);
  return (imagePath) => {
    const password = given ?? known.get(imagePath) ?? (mayAsk ? ask(imagePath) : null);
    if (password === null) throw missingPassword(imagePath);
    if (given === null) known.set(imagePath, password);
    return password.slice();
  };
}

/** What a command uses: the options, or a question at the terminal for each encrypted image. Nothing happens before it is asked. */
export function passwordOf(args: PasswordArguments): PasswordOf {
  let source: PasswordOf | undefined;
  return (imagePath) => {
    source ??= passwordFrom({ given: givenPassword(args), byImage: new Map(), mayAsk: true });
    return source(imagePath);
  };
}

/** The password of a new image: at the terminal it is typed twice. */
export function newPasswordOf(args: PasswordArguments, imagePath: string): () => Uint8Array {
  let password: Uint8Array | undefined;
  return () => {
    password ??= givenPassword(args) ?? askTwice(imagePath);
    return password.slice();
  };
}

function askTwice(imagePath: string): Uint8Array {
  const password = ask(imagePath);
  const again = prompt(`The same again, for ${imagePath}: `);
  if (again !== null && Buffer.compare(password, again) === 0) return password;
  throw new ImgfuseError('usage', 'the two passwords differ; nothing was created');
}

/** Asks at the terminal. @throws permission if there is none */
export function ask(imagePath: string): Uint8Array {
  const password = prompt(`Password of ${imagePath}: `);
  if (password === null) throw missingPassword(imagePath);
  return checked(password, 'the password');
}

function missingPassword(imagePath: string): ImgfuseError {
  return new ImgfuseError(
    'permission',
    `${imagePath} is encrypted, and there is no terminal to ask for its password; give it with --key-file FILE or --key-env ` +
      'VARIABLE (-o key_file= or key_env= for mount)',
    { path: imagePath, operation: PASSWORD_NEEDED },
  );
}

/** A shell asks, because it restores the echo even if it is interrupted. The question goes to the terminal alone. */
const ASK_SCRIPT =
  'trap "stty echo" EXIT; trap "exit 130" HUP INT TERM; stty -echo || exit 1; printf %s "$1" >&2; ' +
  'IFS= read -r password; printf "\\n" >&2; printf %s "$password"';

/** @returns null when there is no terminal @throws permission when nobody answers */
function prompt(question: string): Uint8Array | null {
  const terminal = openTerminal();
  if (terminal === null) return null;
  try {
    const { status, stdout } = spawnSync('/bin/sh', ['-c', ASK_SCRIPT, 'sh', question], {
      stdio: [terminal, 'pipe', terminal],
    });
    if (status === 0) return new Uint8Array(stdout);
    throw new ImgfuseError('permission', 'no password was given at the terminal');
  } finally {
    closeDescriptor(terminal);
  }
}
