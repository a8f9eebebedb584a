// The options of a script. --help prints its usage and ends with 0; what is unknown, has no value or is no number ends with
// the usage and 2.

import { parseArgs } from 'node:util';

/** @param options as of parseArgs; those called "--name N" in the usage are whole numbers @returns their values */
export function parseOptions(usage, options) {
  try {
    const { values } = parseArgs({ options: { ...options, help: { type: 'boolean', default: false } } });
    if (values.help) {
      console.log(usage);
      process.exit(0);
    }
    for (const [, name] of usage.matchAll(/--([a-z]+) N\b/g)) {
      if (!/^\d+$/.test(values[name])) throw new Error(`--${name} needs a whole number, and '${values[name]}' is none`);
    }
    return values;
  } catch (error) {
    process.stderr.write(`${error.message}\n${usage}\n`);
    process.exit(2);
  }
}
