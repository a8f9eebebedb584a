// Runs of fio on the file of a mounted disk, with direct I/O, and the subjects that mount one.

import { execFileSync } from 'node:child_process';

/** Those whose images have rows of reads and of writes in place. */
export const FORMATS = ['raw', 'qed', 'qcow2', 'vdi', 'vpc', 'vmdk', 'vhdx', 'parallels'];

/**
 * One run of fio on an existing file. @param args its job @param unit which figure of the result counts: MiB/s or IOPS
 * @param seconds null: until the job is done @returns the figure
 */
export function fio(file, args, unit, seconds) {
  const side = fioSide(file, args, seconds);
  return unit === 'IOPS' ? side.iops : side.bw / 1024;
}

/** The same. @returns what fio says of the reads, or of the writes if there were more of those: iops, bw, total_ios, ... */
export function fioSide(file, args, seconds) {
  const time = seconds === null ? [] : ['--time_based', `--runtime=${seconds}`];
  const common = ['--name=bench', `--filename=${file}`, '--direct=1', '--ioengine=libaio', '--output-format=json'];
  const output = execFileSync('fio', [...common, '--randrepeat=1', '--allow_file_create=0', ...time, ...args], {
    encoding: 'utf8',
  });
  const [job] = JSON.parse(output.slice(output.indexOf('{'))).jobs;
  return job.read.io_bytes > job.write.io_bytes ? job.read : job.write;
}

/** Writes the whole disk once. */
export function fill(file, size) {
  fio(file, ['--rw=write', '--bs=1M', `--size=${size}`], 'MiB/s', null);
}

/**
 * Who is compared in the rows of fio: this build, then the other build or else fuse-native, then QEMU.
 * @returns {{ name: string, mount: (image: string, at: string, format: string, options?: { sharing?: boolean }) => Promise<{
 *   file: string, unmount: () => Promise<void> }> }[]}
 */
export function fioSubjects(workshop) {
  const [build, other] = workshop.builds;
  const mount =
    (cli, ...more) =>
    async (image, at, format, options) =>
      workshop.mountImgfuse(cli, image, at, [...(format === 'raw' ? ['--format', 'raw'] : []), ...more], options);
  const second =
    other === undefined
      ? { name: 'imgfuse, fuse-native', mount: mount(build.cli, '--transport', 'fuse-native') }
      : { name: other.name, mount: mount(other.cli) };
  const qemu = { name: 'QEMU', mount: workshop.mountQemu.bind(workshop) };
  return [{ name: build.name, mount: mount(build.cli) }, second, ...(workshop.hasQemu ? [qemu] : [])];
}

/** The rows of an image of 1 GiB that is full; `mounts` are those of the subjects, in their order. */
export async function allocatedRows(measurements, format, rows, subjects, mounts) {
  for (const { row, unit, args } of rows) {
    await measurements.row({
      section: `${format}, 1 GiB, all of it allocated`,
      row,
      unit,
      subjects: subjects.map(({ name }, index) => ({
        name,
        sample: () => fio(mounts[index].file, args, unit, measurements.seconds),
      })),
    });
  }
}
