// Measures rows and prints them. A row has subjects; the first one is compared with each other one, round by round: what the
// machine does to one of a pair it does to the other, so the ratio of a pair is steadier than the figures.

/** @typedef {{ name: string, sample: () => number | Promise<number> }} Subject */

export class Measurements {
  results = [];
  group = '';
  #section = '';

  /** @param print for the lines that people read */
  constructor({ rounds, seconds, only, print }) {
    this.rounds = rounds;
    this.seconds = seconds;
    this.only = only;
    this.print = print;
  }

  /** Whether a row is asked for, so that what it needs is not made in vain. */
  wants(row) {
    return row.includes(this.only);
  }

  /**
   * Measures one row, prints it and keeps it. Each subject is sampled `warmUps` times in vain, then once a round, in
   * alternating order.
   * @param {{ section: string, row: string, unit: string, subjects: Subject[], rounds?: number, warmUps?: number,
   *   target?: { to?: string, atLeast?: number, atMost?: number },
   *   pairs?: { of: string, to: string }[] }} row `target` is what the ratio to the subject `to` shall be, or,
   *   without `to`, the figure of the first subject; `pairs` are compared instead of the first subject with each other one
   */
  async row({ section, row, unit, subjects, rounds = this.rounds, warmUps = 1, target, pairs }) {
    if (!this.wants(row)) return undefined;
    for (let time = 0; time < warmUps; time++) for (const subject of subjects) await subject.sample();
    const samples = subjects.map(() => []);
    for (let round = 0; round < rounds; round++) {
      const order = [...subjects.keys()];
      for (const index of round % 2 === 0 ? order : order.reverse()) {
        samples[index].push(await subjects[index].sample());
      }
    }
    const result = {
      group: this.group,
      section,
      row,
      unit,
      subjects: subjects.map(({ name }, index) => ({ name, ...statistics(samples[index]) })),
      ratios: (pairs ?? subjects.slice(1).map(({ name }) => ({ of: subjects[0].name, to: name }))).map(({ of, to }) => {
        const [ours, theirs] = [of, to].map((each) => samples[subjects.findIndex(({ name }) => name === each)]);
        return { of, to, ...statistics(ours.map((sample, round) => sample / theirs[round])) };
      }),
    };
    if (target !== undefined) result.target = judged(target, result);
    this.results.push(result);
    this.#show(result);
    return result;
  }

  #show({ section, row, unit, subjects, ratios, target }) {
    const heading = `${this.group}: ${section}`;
    if (heading !== this.#section) this.print(`\n${heading}`);
    this.#section = heading;
    const figures = subjects.map(
      ({ name, median, min, max }) => `${name} ${rounded(median)} (${rounded(min)} to ${rounded(max)}) ${unit}`,
    );
    const compared = ratios.map(
      ({ of, to, median, min, max }) =>
        `${of === subjects[0].name ? '' : `${of} `}${median.toFixed(2)} (${min.toFixed(2)} to ${max.toFixed(2)}) x ${to}`,
    );
    this.print(`  ${row}\n    ${figures.join(', ')}`);
    if (target !== undefined && target.met !== null) compared.push(said(target));
    if (compared.length > 0) this.print(`    ${compared.join(', ')}`);
  }
}

function judged(target, { subjects, ratios }) {
  const figure = target.to === undefined ? subjects[0].median : ratios.find(({ to }) => to === target.to)?.median;
  if (figure === undefined) return { ...target, met: null };
  return { ...target, met: figure >= (target.atLeast ?? 0) && figure <= (target.atMost ?? Number.POSITIVE_INFINITY) };
}

function said({ to, atLeast, atMost, met }) {
  const limit = atLeast === undefined ? `at most ${atMost}` : `at least ${atLeast}`;
  return `target: ${limit}${to === undefined ? '' : ` x ${to}`}, ${met ? 'met' : 'MISSED'}`;
}

/** @param samples at least one */
export function statistics(samples) {
  const sorted = [...samples].sort((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  const median = (sorted[Math.floor(middle)] + sorted[Math.ceil(middle)]) / 2;
  const [min, max] = [sorted[0], sorted.at(-1)];
  return { samples, median, min, max, spread: median === 0 ? 0 : (max - min) / median };
}

function rounded(figure) {
  if (figure >= 10_000) return `${(figure / 1000).toFixed(1)} k`;
  return figure >= 100 || Number.isInteger(figure) ? figure.toFixed(0) : figure.toPrecision(3);
}
