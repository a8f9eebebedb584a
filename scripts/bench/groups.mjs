// The groups of rows, in the order in which they run. A group NAME is the module NAME.mjs beside this file, and exports
// `run(workshop, measurements)`: it makes its images and mounts with the Workshop and calls measurements.row() for each row.

export const GROUPS = ['read', 'floor', 'write', 'alloc', 'warm', 'latency', 'costs', 'start', 'open'];

export async function runGroups(names, workshop, measurements) {
  for (const name of GROUPS.filter((group) => names.includes(group))) {
    const { run } = await import(new URL(`${name}.mjs`, import.meta.url));
    measurements.group = name;
    await run(workshop, measurements);
  }
}
