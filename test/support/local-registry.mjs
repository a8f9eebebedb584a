// A registry of npm packages made of those that are installed in a node_modules folder, for an installation without a network.
// Usage: local-registry.mjs NODE_MODULES SCRATCH   Prints its port and serves until its standard input ends.

import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';

const [, , modules, scratch] = process.argv;
let origin = '';

/** The document about a package, as npm asks for it; null if it is not installed. */
function documentOf(name) {
  const folder = join(modules, name);
  if (!existsSync(join(folder, 'package.json'))) return null;
  const manifest = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  const file = join(scratch, `${name.replace('/', '+')}.tgz`);
  if (!existsSync(file)) {
    const shape = ['--exclude=./node_modules', '--transform=s,^\\.,package,'];
    const { status, stderr } = spawnSync('tar', ['-czf', file, ...shape, '-C', folder, '.'], { encoding: 'utf8' });
    if (status !== 0) throw new Error(stderr);
  }
  const integrity = `sha512-${createHash('sha512').update(readFileSync(file)).digest('base64')}`;
  const { version } = manifest;
  const dist = { tarball: `${origin}/-/${encodeURIComponent(name)}.tgz`, integrity };
  return { name, 'dist-tags': { latest: version }, versions: { [version]: { ...manifest, dist } } };
}

const server = createServer((request, response) => {
  const path = decodeURIComponent(new URL(request.url, 'http://localhost').pathname.slice(1));
  const tarball = /^-\/(.+)\.tgz$/.exec(path)?.[1];
  const document = documentOf(tarball ?? path);
  if (document === null) response.writeHead(404).end('{}');
  else if (tarball === undefined) response.end(JSON.stringify(document));
  else response.end(readFileSync(join(scratch, `${tarball.replace('/', '+')}.tgz`)));
});
server.listen(0, '127.0.0.1', () => {
  origin = `http://127.0.0.1:${server.address().port}`;
  console.log(origin);
});
process.stdin.on('end', () => process.exit()).resume();
