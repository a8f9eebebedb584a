#!/usr/bin/env node
// npm run bench: imgfuse against another build of it, against fuse-native, and against QEMU where that is installed. Machines
// are noisy, ratios within one run are not: every row warms each subject up, then measures all of them in turn, in alternating
// order, and shows the median of the ratios of these rounds with their spread. A group of rows is a module of scripts/bench/.

import { GROUPS, runGroups } from './bench/groups.mjs';
import { machineFacts } from './bench/machine.mjs';
import { Measurements } from './bench/measurements.mjs';
import { Workshop } from './bench/workshop.mjs';
import { parseOptions } from './parse-options.mjs';

const USAGE =
  'npm run bench -- [--rows GROUPS] [--formats NAMES] [--only TEXT] [--seconds N] [--rounds N] [--other CLI] [--quick]\n' +
  '  [--output FORM]\n' +
  `  --rows GROUPS   groups of rows, separated by commas (default all): ${GROUPS.join(', ')}\n` +
  '  --formats NAMES reads, writes and allocating writes of images in these, separated by commas (default all)\n' +
  '  --only TEXT     rows with TEXT in their name: "random 4k"\n' +
  '  --seconds N     for each measurement of fio (default 2)\n' +
  '  --rounds N      in each of which every subject is measured once (default 5)\n' +
  '  --other CLI     dist/cli.js of another build, measured in the place of fuse-native\n' +
  '  --quick         one round of a second\n' +
  '  --output FORM   human (default) or json: every sample, median, min and max, the ratios, the machine';

const options = parseOptions(USAGE, {
  rows: { type: 'string', default: GROUPS.join(',') },
  formats: { type: 'string', default: '' },
  only: { type: 'string', default: '' },
  seconds: { type: 'string', default: '2' },
  rounds: { type: 'string', default: '5' },
  other: { type: 'string' },
  quick: { type: 'boolean', default: false },
  output: { type: 'string', default: 'human' },
});
const groups = options.rows.split(',');
const unknown = groups.find((group) => !GROUPS.includes(group));
const complaint =
  unknown !== undefined
    ? `there is no group '${unknown}'`
    : ['human', 'json'].includes(options.output)
      ? Number(options.rounds) > 0 && Number(options.seconds) > 0
        ? null
        : 'a row takes a round and a second at least'
      : `--output is human or json, not '${options.output}'`;
if (complaint !== null) {
  process.stderr.write(`${complaint}\n${USAGE}\n`);
  process.exit(2);
}

const isJson = options.output === 'json';
const formats = options.formats === '' ? [] : options.formats.split(',');
const workshop = new Workshop({ other: options.other, formats });
const measurements = new Measurements({
  rounds: options.quick ? 1 : Number(options.rounds),
  seconds: options.quick ? 1 : Number(options.seconds),
  only: options.only,
  print: isJson ? () => undefined : (line) => console.log(line),
});
process.on('SIGINT', () => process.exit(130));
process.on('SIGTERM', () => process.exit(143));
process.on('exit', () => workshop.cleanUp());
const machine = machineFacts(workshop);
measurements.print(Object.values(machine).join(', '));
await runGroups(groups, workshop, measurements);
if (isJson) console.log(JSON.stringify({ machine, rows: measurements.results }, null, 2));
