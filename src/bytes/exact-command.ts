// Programs that are started with the name of a file among their arguments. Node turns every argument into UTF-8; a name that is
// not UTF-8 goes through a shell, which puts its bytes together again. The shell runs a fixed script, and its arguments are
// data to it, never code.

import { bytesOfName, escapedByte } from './names.ts';

/** Turns each argument from the escapes of printf(1) into bytes; the x keeps line ends that $() would drop. */
const SCRIPT =
  'export LC_ALL=C; n=$#; while [ "$n" -gt 0 ]; do word=$(printf "%bx" "$1"); shift; ' +
  `set -- "$@" "\${word%x}"; n=$((n - 1)); done; exec "$@"`;

/** Exit code of the shell if there is no such program. */
export const PROGRAM_MISSING = 127;

/** What to start so that `program` gets the bytes of every argument. */
export function exactCommand(program: string, parameters: readonly string[]): [program: string, parameters: string[]] {
  if (parameters.every((parameter) => parameter.isWellFormed())) return [program, [...parameters]];
  return ['/bin/sh', ['-c', SCRIPT, 'sh', program, ...parameters.map(escapes)]];
}

function escapes(parameter: string): string {
  return Array.from(parameter, (character) => {
    if (character === '\\') return '\\\\';
    if (escapedByte(character) === null) return character;
    return `\\0${bytesOfName(character)[0]!.toString(8)}`;
  }).join('');
}
