// The arithmetic of npm run bench: what a median, a pair and the order of the rounds are.

import { beforeEach, describe, expect, test } from 'vitest';

interface Figures {
  readonly samples: number[];
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly spread: number;
}
const { Measurements, statistics } = (await import(
  new URL('../../../scripts/bench/measurements.mjs', import.meta.url).href
)) as {
  Measurements: new (
    options: object,
  ) => {
    row(row: object): Promise<undefined | { subjects: Figures[]; ratios: Figures[]; target?: { met: boolean | null } }>;
  };
  statistics(samples: number[]): Figures;
};

test('the median of an even number of samples lies between the two in the middle', () => {
  expect(statistics([4, 1, 2, 3])).toEqual({ samples: [4, 1, 2, 3], median: 2.5, min: 1, max: 4, spread: 3 / 2.5 });
  expect(statistics([7])).toEqual({ samples: [7], median: 7, min: 7, max: 7, spread: 0 });
});

describe('a row', () => {
  let order: string;
  let printed: string[];
  const subject = (name: string, ...samples: number[]) => ({
    name,
    sample: () => {
      order += name;
      return samples.shift()!;
    },
  });
  const measured = (row: object) =>
    new Measurements({ rounds: 3, seconds: 1, only: 'a', print: (line: string) => printed.push(line) }).row({
      section: 'section',
      unit: 'ms',
      row: 'a row',
      ...row,
    });
  beforeEach(() => {
    order = '';
    printed = [];
  });

  test('is warmed up once, and its subjects then take turns in alternating order', async () => {
    await measured({ subjects: [subject('A', 9, 1, 1, 1), subject('B', 9, 1, 1, 1)] });
    expect(order).toBe('AB' + 'AB' + 'BA' + 'AB');
  });

  test('compares the samples of the same round', async () => {
    const row = await measured({ subjects: [subject('A', 0, 10, 30, 20), subject('B', 0, 10, 10, 10)] });
    expect(row!.ratios).toEqual([{ of: 'A', to: 'B', samples: [1, 3, 2], median: 2, min: 1, max: 3, spread: 1 }]);
    expect(printed.join('\n')).toContain('2.00 (1.00 to 3.00) x B');
  });

  test('compares the pairs that it names', async () => {
    const subjects = [subject('A', 0, 8, 8, 8), subject('B', 0, 4, 4, 4), subject('C', 0, 1, 1, 1)];
    const row = await measured({ subjects, pairs: [{ of: 'B', to: 'C' }] });
    expect(row!.ratios).toEqual([{ of: 'B', to: 'C', ...statistics([4, 4, 4]) }]);
    expect(printed.join('\n')).toContain('B 4.00 (4.00 to 4.00) x C');
  });

  test('says whether its target is met', async () => {
    const subjects = () => [subject('A', 0, 9, 9, 9), subject('B', 0, 10, 10, 10)];
    const met = async (target: object) => (await measured({ subjects: subjects(), target }))!.target!.met;
    expect(await met({ to: 'B', atLeast: 0.9 })).toBe(true);
    expect(await met({ to: 'B', atLeast: 0.95 })).toBe(false);
    expect(await met({ to: 'B', atMost: 0.8 })).toBe(false);
    expect(await met({ to: 'nobody', atMost: 1 })).toBe(null);
    expect(await met({ atMost: 9 })).toBe(true);
    expect(await met({ atMost: 8 })).toBe(false);
  });

  test('that is not asked for is not measured', async () => {
    expect(await measured({ row: 'other', subjects: [subject('A')] })).toBe(undefined);
    expect(order).toBe('');
  });
});
