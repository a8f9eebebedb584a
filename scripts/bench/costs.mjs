// What must not grow with the image, counted on images of hundreds of gigabytes that hold little but tables: requests to a
// server for a mount, memory and time of `map`, a search for data among zeros, an answer of `status` beside a large read.

import { spawnSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, readSync, statSync, writeSync } from 'node:fs';
import { countRequests } from './range-server.mjs';

const CLUSTER = 65536;
/** In the low word of an L2 entry: the cluster reads as zeros. */
const QCOW_OFLAG_ZERO = 1n;
const QCOW_OFLAG_COPIED = 1n << 63n;

export async function run(workshop, measurements) {
  await requestsForMount(workshop, measurements);
  await mapOfManyExtents(workshop, measurements);
  await seekAmongZeros(workshop, measurements);
  await statusBesideRead(workshop, measurements);
}

async function requestsForMount(workshop, measurements) {
  const row = 'mount of an overlay: requests to the server of its base';
  if (!measurements.wants(row)) return;
  const base = craft(workshop, 'base.qcow2', '200G', (cluster, data) => data + BigInt(cluster * CLUSTER));
  const server = await countRequests(base, 'base.qcow2');
  const overlay = workshop.path('overlay.qcow2');
  const allowed = ['--allow-backing', server.url.replace('base.qcow2', '')];
  workshop.imgfuse('create', '-q', '-f', 'qcow2', '-b', server.url, '-F', 'qcow2', overlay, '200G');
  const counted = (mount) => async () => {
    const before = server.requests();
    const { unmount } = await mount();
    const requests = server.requests() - before;
    await unmount();
    return requests;
  };
  const subjects = workshop.builds.map(({ name, cli }) => ({
    name,
    sample: counted(async () => workshop.mountImgfuse(cli, overlay, workshop.path('overlay'), allowed)),
  }));
  if (await qemuReadsUrls(server.url)) {
    const mount = () => workshop.mountQemu(overlay, workshop.path('overlay'), 'qcow2');
    subjects.push({ name: 'QEMU', sample: counted(mount) });
  }
  const target = { atMost: 4 };
  await measurements.row({ section: 'a base of 200 GiB over HTTP', row, unit: 'requests', subjects, target });
  await server.stop();
}

async function mapOfManyExtents(workshop, measurements) {
  const row = 'map --output=json';
  if (!measurements.wants(row)) return;
  // data and zeros in turn, so that each cluster is an extent
  const image = craft(workshop, 'extents.qcow2', '256G', (cluster, data) =>
    cluster % 2 === 0 ? data : QCOW_OFLAG_ZERO,
  );
  const commands = workshop.builds.map(({ name, cli }) => ({
    name,
    words: [process.execPath, cli, 'map', '--output=json', image],
  }));
  if (workshop.hasQemu) commands.push({ name: 'QEMU', words: ['qemu-img', 'map', '--output=json', image] });
  const section = 'a disk of 4 M extents';
  for (const [figure, what, unit, target] of [
    ['cpuSeconds', 'CPU time', 's', undefined],
    ['rssMiB', 'memory', 'MiB', { atMost: 160 }],
  ]) {
    await measurements.row({
      section,
      row: `${row}, ${what}`,
      unit,
      target,
      warmUps: 0,
      rounds: Math.min(measurements.rounds, 3),
      subjects: commands.map(({ name, words }) => ({ name, sample: () => workshop.timed(...words)[figure] })),
    });
  }
}

async function seekAmongZeros(workshop, measurements) {
  const row = 'SEEK_DATA that finds none';
  if (!measurements.wants(row)) return;
  const { SEEK_DATA, lseekOrNone } = await nativeCalls();
  const image = craft(workshop, 'zeros.qcow2', '2T', () => QCOW_OFLAG_ZERO);
  const seek = (file) => {
    const descriptor = openSync(file, 'r');
    const begin = performance.now();
    const found = lseekOrNone(descriptor, 0, SEEK_DATA);
    const taken = performance.now() - begin;
    closeSync(descriptor);
    if (found !== null) throw new Error(`there is data at ${found} of a disk of zeros`);
    return taken / 1000;
  };
  const mounts = [];
  for (const [index, { name, cli }] of workshop.builds.entries()) {
    const at = workshop.path(`zeros-${index}`);
    mounts.push({ name, ...workshop.mountImgfuse(cli, image, at, ['-o', 'ro'], { sharing: true }) });
  }
  if (workshop.hasQemu) {
    const at = workshop.path('zeros-qemu');
    mounts.push({ name: 'QEMU', ...(await workshop.mountQemu(image, at, 'qcow2', { sharing: true })) });
  }
  await measurements.row({
    section: 'a disk of 2 TiB of zero clusters',
    row,
    unit: 's',
    target: { atMost: 2 },
    subjects: mounts.map(({ name, file }) => ({ name, sample: () => seek(file) })),
  });
  for (const { unmount } of mounts) await unmount();
}

async function statusBesideRead(workshop, measurements) {
  const row = 'status beside a large read';
  if (!measurements.wants(row)) return;
  const image = craft(workshop, 'large.qcow2', '1T', () => QCOW_OFLAG_ZERO);
  const mounts = [];
  for (const [index, { name, cli }] of workshop.builds.entries()) {
    const at = workshop.path(`large-${index}`);
    const mount = workshop.mountImgfuse(cli, image, at, ['-o', 'ro']);
    const status = () => {
      const begin = performance.now();
      mount.command('status', at);
      return (performance.now() - begin) / 1000;
    };
    mounts.push({ name, mount, status });
  }
  const beside = (mount, measure) => async () => {
    const args = [`if=${mount.file}`, 'of=/dev/null', 'bs=64M', 'iflag=direct'];
    const reader = workshop.start('dd', args, { stdio: 'ignore' });
    await new Promise((resolve) => setTimeout(resolve, 200));
    const taken = measure();
    await reader.stop('SIGTERM');
    return taken;
  };
  await measurements.row({
    section: 'a disk of 1 TiB of zero clusters',
    row,
    unit: 's',
    target: { atMost: 0.5 },
    subjects: [
      ...mounts.map(({ name, mount, status }) => ({ name, sample: beside(mount, status) })),
      { name: 'idle', sample: mounts[0].status },
    ],
  });
  for (const { mount } of mounts) await mount.unmount();
}

/** In this process, so that the time is that of the call. */
async function nativeCalls() {
  const { SEEK_DATA } = await import('../../dist/bytes/linux.js');
  const { lseekOrNone } = await import('../../dist/native/index.js');
  return { SEEK_DATA, lseekOrNone };
}

async function qemuReadsUrls(url) {
  return spawnSync('qemu-img', ['info', url]).status === 0;
}

/**
 * A qcow2 image with all of its L2 tables, and no counters for them: an image to look at, not to repair.
 * @param entryOf the L2 entry of a guest cluster @returns its path
 */
function craft(workshop, name, size, entryOf) {
  const image = workshop.path(name);
  workshop.imgfuse('create', '-q', '-f', 'qcow2', image, size);
  const file = openSync(image, 'r+');
  const header = Buffer.alloc(48);
  readSync(file, header, 0, header.length, 0);
  const [l1Entries, l1Offset] = [header.readUInt32BE(36), Number(header.readBigUInt64BE(40))];
  const tables = Math.ceil(statSync(image).size / CLUSTER) * CLUSTER;
  const dataAt = tables + l1Entries * CLUSTER;
  const data = BigInt(dataAt) | QCOW_OFLAG_COPIED;
  const l1 = Buffer.alloc(l1Entries * 8);
  const l2 = Buffer.alloc(CLUSTER);
  let last = 0n;
  for (let index = 0; index < l1Entries; index++) {
    l1.writeBigUInt64BE(BigInt(tables + index * CLUSTER) | QCOW_OFLAG_COPIED, index * 8);
    for (let entry = 0; entry < CLUSTER / 8; entry++) {
      last = entryOf(index * (CLUSTER / 8) + entry, data);
      l2.writeBigUInt64BE(last, entry * 8);
    }
    writeSync(file, l2, 0, CLUSTER, tables + index * CLUSTER);
  }
  writeSync(file, l1, 0, l1.length, l1Offset);
  // the first cluster of data, and a hole for the others
  writeSync(file, Buffer.alloc(CLUSTER, 7), 0, CLUSTER, dataAt);
  ftruncateSync(file, Math.max(dataAt, Number(last & 0x00fffffffffffe00n)) + CLUSTER);
  closeSync(file);
  return image;
}
