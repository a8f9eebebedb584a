// The options of the scripts that prove something: a slip of the pen never starts a run with other figures than were asked for.

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const SCRIPTS = fileURLToPath(new URL('../../../scripts/', import.meta.url));
const WITH_FIGURES = ['powercut.sh', 'faults.sh', 'fuzz.sh', 'killtest.sh', 'cycles.sh', 'soak.sh', 'fullhost.sh'];
/** Time decides what these meet, and no seed. */
const WITHOUT_SEED = ['soak.sh', 'fullhost.sh'];
const OTHERS = ['rules.mjs', 'stress.mjs', 'bench.mjs'];

function run(script: string, ...parameters: string[]) {
  const [command, ...before] = script.endsWith('.mjs') ? [process.execPath, SCRIPTS + script] : [SCRIPTS + script];
  const { status, stdout, stderr } = spawnSync(command!, [...before, ...parameters], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  return { status, stdout, stderr };
}

describe.each([...WITH_FIGURES, ...OTHERS])('%s', (script) => {
  const help = run(script, '--help').stdout;

  test('says with --help how it is used', () => {
    expect(run(script, '--help')).toMatchObject({ status: 0, stderr: '' });
    expect(help).toMatch(/^(usage: \w+\.sh|npm run \w+ --) \[--/);
  });

  test.each(['--nope', '--.*', '-x', 'word', ''])("refuses '%s', with the usage and exit code 2", (option) => {
    const { status, stdout, stderr } = run(script, option);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toContain(help);
  });

  const takesValue = [...help.matchAll(/\[(--[a-z]+) [A-Z]+\b/g)].map(([, option]) => option!);
  test.each(takesValue)('refuses %s without a value', (option) => {
    const { status, stderr } = run(script, option);
    expect(status).toBe(2);
    expect(stderr).toContain(help);
  });

  const takesNumber = [...help.matchAll(/\[(--[a-z]+) [NS]\b/g)].map(([, option]) => option!);
  test.each(takesNumber)('refuses %s with a word', (option) => {
    for (const value of ['many', '1.5', '-1', '']) expect(run(script, option, value).status).toBe(2);
  });
});

test.each(
  WITH_FIGURES.filter((script) => !WITHOUT_SEED.includes(script)),
)('%s gives its tests a seed, which is printed', (script) => {
  expect(readFileSync(SCRIPTS + script, 'utf8')).toMatch(/run-figures\.sh[\s\S]* SEED="\$seed"/);
});

test('fuzz.sh refuses a format that it does not know', () => {
  expect(run('fuzz.sh', '--format', 'vmdkk')).toMatchObject({ status: 2, stdout: '' });
});

test('figures come last, after the seed, and the exit code is that of the tests', () => {
  const figures = (pattern: string, format: string) =>
    run(
      'run-figures.sh',
      pattern,
      'SLICE_CUTS=3',
      `POWERCUT_FORMAT=${format}`,
      'SEED=7',
      '--',
      '--passWithNoTests',
      'test/model/power-cut-raw',
    );
  const { status, stdout, stderr } = figures('^raw: [0-9]', 'raw');
  expect(stdout).toMatch(
    /^seed 7\nraw: \d+ states, \d+ of them distinct, 0 with lost sectors, 0 unrepaired, 0 corrupt .*\n$/,
  );
  expect(stderr).toMatch(/Tests +\d+ passed \(/);
  expect(status).toBe(0);
  // no test at all is no success
  expect(figures('states', 'a format of nobody')).toMatchObject({ status: 1, stdout: 'seed 7\n' });
});

test('every rule that npm run rules switches off is in the sources as it says', () => {
  const { status, stdout, stderr } = run('rules.mjs', '--list');
  expect(stderr).toBe('');
  expect(status).toBe(0);
  for (let rule = 1; rule <= 10; rule++) expect(stdout).toContain(`R${rule}  `);
});
