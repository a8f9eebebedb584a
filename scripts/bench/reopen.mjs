// The mount of an image that imgfuse has closed clean and nothing has changed since: it shall take as long, and the process as much
// memory, whatever the size of the image. Every cluster of the images is allocated (big-images.mjs).

import { closeSync, openSync, readFileSync, readSync, rmSync, statSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { canHold, fullQcow2, fullQed } from './big-images.mjs';

const GIB = 2 ** 30;
const SMALL = GIB;
const LARGE = 16384 * GIB;
const LARGE_TO_SMALL = 1.5;
const MEMORY_MIB = 120;
/** The table of each of these places is read, so that the cache of tables is full in the end. */
const PLACES = 32768;
const IDLE_MS = 3000;
const MAKERS = { qcow2: fullQcow2, QED: fullQed };

export async function reopenRows(workshop, measurements) {
  for (const [format, make] of Object.entries(MAKERS)) {
    const rows = {
      time: `mount, ${format}, closed clean, 16 TiB`,
      walk: `mount, ${format}, not known, 16 TiB`,
      memory: `memory, ${format}, 16 TiB`,
    };
    if (!Object.values(rows).some((row) => measurements.wants(row))) continue;
    if (!canHold(workshop, LARGE)) {
      measurements.print(`\nopen: no file here can be as long as that of a ${format} image of 16 TiB`);
      continue;
    }
    const [small, large] = ['small', 'large'].map((name) => workshop.path(`${name}-${format}`));
    make(small, SMALL);
    make(large, LARGE);
    await timeRow(workshop, measurements, rows.time, { small, large });
    await walkRow(workshop, measurements, rows.walk, large);
    await memoryRow(workshop, measurements, rows.memory, large);
    for (const image of [small, large]) rmSync(image);
  }
}

async function timeRow(workshop, measurements, row, { small, large }) {
  if (!measurements.wants(row)) return;
  const subjects = [
    ...workshop.builds.map(({ name, cli }) => ({ name, cli, image: large })),
    { name: '1 GiB', cli: workshop.builds[0].cli, image: small },
  ].map(({ name, cli, image }) => ({ name, sample: () => mountTime(workshop, cli, image) }));
  await measurements.row({
    section: 'mount of a full image, read-write',
    ...{ row, unit: 'ms', subjects },
    rounds: 3 * measurements.rounds,
    target: { to: '1 GiB', atMost: LARGE_TO_SMALL },
  });
}

/** The mark does not count for a directory in which there is none. */
async function walkRow(workshop, measurements, row, image) {
  if (!measurements.wants(row)) return;
  const subjects = workshop.builds.map(({ name, cli }) => ({
    name,
    sample: () => {
      rmSync(`${placeOf(workshop, image)}.run`, { recursive: true, force: true });
      return mountTime(workshop, cli, image);
    },
  }));
  await measurements.row({ section: 'mount of a full image, read-write', row, unit: 'ms', subjects });
}

async function memoryRow(workshop, measurements, row, image) {
  if (!measurements.wants(row)) return;
  const subjects = workshop.builds.map(({ name, cli }) => ({
    name,
    sample: async () => {
      const mount = workshop.mountImgfuse(cli, image, placeOf(workshop, image));
      readEverywhere(mount.file);
      await delay(IDLE_MS);
      const [{ pid }] = JSON.parse(mount.command('status', '--output=json'));
      const [, kib] = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
      await mount.unmount();
      return Number(kib) / 1024;
    },
  }));
  const section = `memory of a mount after reads at ${PLACES} places, at most ${MEMORY_MIB} MiB`;
  await measurements.row({ section, row, unit: 'MiB', subjects, rounds: 1, warmUps: 0 });
}

async function mountTime(workshop, cli, image) {
  const begin = performance.now();
  const mount = workshop.mountImgfuse(cli, image, placeOf(workshop, image));
  statSync(mount.file);
  const taken = performance.now() - begin;
  await mount.unmount();
  return taken;
}

/** A mountpoint, and with it a directory of marks, for each image. */
function placeOf(workshop, image) {
  return workshop.path(`mnt-${image.slice(image.lastIndexOf('/') + 1)}`);
}

function readEverywhere(file) {
  const fd = openSync(file, 'r');
  const { size } = statSync(file);
  const bytes = Buffer.alloc(4096);
  for (let place = 0; place < PLACES; place++)
    readSync(fd, bytes, 0, bytes.length, Math.floor((size / PLACES) * place));
  closeSync(fd);
}
