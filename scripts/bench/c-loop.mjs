// The loop in C that serves one file with the least of work (floor.c).

import { execFileSync, spawnSync } from 'node:child_process';
import { statSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { until } from './workshop.mjs';

/** @returns the program */
export function compileLoop(workshop) {
  const program = workshop.path('floor');
  const source = fileURLToPath(new URL('floor.c', import.meta.url));
  execFileSync('gcc', ['-O2', '-o', program, source, '-lpthread']);
  return program;
}

/** @param manner poll or splice: see floor.c */
export async function mountLoop(workshop, program, image, threads, manner) {
  const file = workshop.path(`floor-${manner ?? 'plain'}.file`);
  writeFileSync(file, '');
  const { child, stop } = workshop.start(program, [image, file, String(threads), ...(manner ? [manner] : [])]);
  const forget = workshop.onCleanUp(() => spawnSync('umount', [file]));
  await until(() => statSync(file).size > 0, 'the loop in C did not mount the file');
  const unmount = async () => {
    forget();
    await stop('SIGTERM');
  };
  return { file, pid: child.pid, unmount };
}
