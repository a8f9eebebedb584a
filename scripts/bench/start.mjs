// Starting and ending, as ratios to `node -e 0`: every command on a small image, a mount from the command to its end with the
// mount answering, an unmount to the closed image. And the memory of a mount that nobody uses.

import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

const FLOOR = 'node -e 0';
const FORMATS = ['qcow2', 'qed', 'raw'];
const MOUNT_STARTS = 3;
const COMMAND_STARTS = 2;
/** as many runs make up for the coarse clock of CPU time */
const RUNS = 5;
/** After that time an idle mount has done what it does late. */
const IDLE_MS = 3000;

export async function run(workshop, measurements) {
  const image = (format) => workshop.path(`small.${format}`);
  for (const format of FORMATS) workshop.imgfuse('create', '-f', format, image(format), '1G');
  const row = (name, sample, atMost) =>
    measurements.row({
      section: `small images, beside ${FLOOR}`,
      row: name,
      unit: 'ms',
      subjects: [
        ...workshop.builds.map(({ name: build, cli }) => ({ name: build, sample: () => sample(cli) })),
        { name: FLOOR, sample: () => milliseconds(() => execFileSync(process.execPath, ['-e', '0'])) },
      ],
      // a round takes a moment, and the ratios of pairs spread
      rounds: 3 * measurements.rounds,
      target: { to: FLOOR, atMost },
    });
  await row('command to usable mount', (cli) => timeMount(workshop, cli, image('qcow2')).mount(), MOUNT_STARTS);
  await row('unmount', (cli) => timeMount(workshop, cli, image('qcow2')).unmount(), COMMAND_STARTS);
  for (const words of commands(image)) {
    const run = (cli) => {
      rmSync(image('new'), { force: true });
      return milliseconds(() => workshop.command(cli, ...words));
    };
    const name = words.filter((word) => !word.includes('/')).join(' ');
    await row(name, run, COMMAND_STARTS);
    await cpuRow(workshop, measurements, name, run);
  }
  for (const format of FORMATS) await memoryOf(workshop, measurements, image(format), format);
}

/** CPU time says more than time where other work keeps the processors busy. */
async function cpuRow(workshop, measurements, name, run) {
  await measurements.row({
    section: `small images, beside ${FLOOR}`,
    row: `${name}, CPU time`,
    unit: 'ms',
    subjects: [
      ...workshop.builds.map(({ name: build, cli }) => ({ name: build, sample: () => cpuTime(() => run(cli)) })),
      { name: FLOOR, sample: () => cpuTime(() => execFileSync(process.execPath, ['-e', '0'])) },
    ],
    target: { to: FLOOR, atMost: COMMAND_STARTS },
  });
}

/** Of the processes that this one has waited for; the kernel tells it in hundredths of a second. @returns ms of one run */
function cpuTime(work) {
  const ticks = () => {
    const [, , , , , , , , , , , , , user, system] = readFileSync('/proc/self/stat', 'utf8')
      .replace(/^.*\) /, '')
      .split(' ');
    return Number(user) + Number(system);
  };
  const before = ticks();
  for (let time = 0; time < RUNS; time++) work();
  return (10 * (ticks() - before)) / RUNS;
}

function commands(image) {
  return [
    ...[['--version'], ['--help'], ['help', 'mount'], ['completion', 'bash'], ['status']],
    ...['info', 'check', 'map'].map((command) => [command, image('qcow2')]),
    ['create', '-f', 'qcow2', image('new'), '1G'],
    ['resize', image('qed'), '+1M'],
  ];
}

/** The two halves of a mount and its end, of which one is timed. */
function timeMount(workshop, cli, image) {
  let mount;
  const begin = () => {
    mount = workshop.mountImgfuse(cli, image, workshop.path('start'));
    statSync(mount.file);
  };
  return {
    mount: async () => {
      const taken = milliseconds(begin);
      await mount.unmount();
      return taken;
    },
    unmount: () => {
      begin();
      return milliseconds(() => mount.unmount());
    },
  };
}

/** VmRSS counts the pages of the program node in full, though all processes share them; PSS counts a share of them. */
async function memoryOf(workshop, measurements, image, format) {
  const idle = async (cli, file, name) => {
    const mount = workshop.mountImgfuse(cli, image, workshop.path('idle'), ['--format', format]);
    // not from `status`: the process loads an engine to answer that
    const records = `${workshop.path('idle')}.run`;
    const record = readdirSync(records).find((each) => each.endsWith('.json'));
    const { pid } = JSON.parse(readFileSync(join(records, record), 'utf8'));
    await delay(IDLE_MS);
    const [, kib] = new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(readFileSync(`/proc/${pid}/${file}`, 'utf8'));
    await mount.unmount();
    return Number(kib) / 1024;
  };
  for (const [row, file, name] of [
    ['VmRSS', 'status', 'VmRSS'],
    ['PSS', 'smaps_rollup', 'Pss'],
  ]) {
    await measurements.row({
      section: 'memory of an idle mount',
      row: `${row}, ${format}`,
      unit: 'MiB',
      subjects: workshop.builds.map(({ name: build, cli }) => ({ name: build, sample: () => idle(cli, file, name) })),
      ...{ rounds: 1, warmUps: 0 },
    });
  }
}

function milliseconds(work) {
  const begin = performance.now();
  work();
  return performance.now() - begin;
}
