// What the figures depend on: the machine and the versions, without any name or path of it.

import { execFileSync, spawnSync } from 'node:child_process';
import { availableParallelism, cpus, release, totalmem } from 'node:os';

/** @param workshop whose directory holds the images */
export function machineFacts(workshop) {
  return {
    cpu: `${availableParallelism()} x ${cpus()[0]?.model ?? 'unknown processor'}`,
    memory: `${Math.round(totalmem() / 2 ** 30)} GiB`,
    kernel: `Linux ${release()}`,
    node: `Node ${process.versions.node}`,
    qemu: versionOf('qemu-storage-daemon') ?? 'no QEMU',
    images: `images on ${execFileSync('stat', ['-f', '-c', '%T', workshop.directory], { encoding: 'utf8' }).trim()}`,
  };
}

function versionOf(command) {
  const { status, stdout } = spawnSync(command, ['--version'], { encoding: 'utf8' });
  return status === 0 ? `QEMU ${/version (\S+)/.exec(stdout)?.[1] ?? ''}` : null;
}
