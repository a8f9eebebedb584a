// What a command exits with, against the numbers of mount(8).

import { describe, expect, it } from 'vitest';
import { mountExitCode } from '../../../src/errors/exit-codes.ts';
import { ImgfuseError } from '../../../src/errors/index.ts';

describe('exit codes of mount', () => {
  it('follow mount(8)', () => {
    const of = (kind: ConstructorParameters<typeof ImgfuseError>[0]): number =>
      mountExitCode(new ImgfuseError(kind, ''));
    expect(of('usage')).toBe(1);
    expect(of('permission')).toBe(1);
    expect(of('no-space')).toBe(2);
    expect(of('missing')).toBe(32);
    expect(of('busy')).toBe(32);
    expect(of('corrupt')).toBe(32);
    expect(mountExitCode(new TypeError('a bug'))).toBe(2);
  });
});
