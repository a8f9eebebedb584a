// Images of every kind on servers that are hard to use: one that sends files whole, one without validators, one whose clock is a day
// behind. An image that opens is read to its end; what could not be read later on is refused at the open.

import { mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { imageFileOf } from '../../../src/disk/directory-image.ts';
import { openDisk, type VirtualDisk } from '../../../src/disk/index.ts';
import { ImgfuseError } from '../../../src/errors/index.ts';
import { EVERY_KIND } from '../../support/every-kind.ts';
import { firstDifference, readAll } from '../../support/image-files.ts';
import { RangeServer } from '../../support/range-server.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

/** A file that comes whole with the first answer is taken if it is no longer. */
const FIRST_ANSWER = 64 * 1024;

interface Served {
  readonly name: string;
  readonly path: string;
  readonly content: Buffer;
  /** bytes of its file; null: it has several */
  readonly bytes: number | null;
}

let folder: string;
let server: RangeServer;
let served: Served[];
/** While one remote file is open, the network thread lives on. */
let keeper: VirtualDisk;

beforeAll(() => {
  folder = makeTemporaryDirectory();
  served = EVERY_KIND.map(({ name, make }, index) => {
    const directory = join(folder, String(index));
    mkdirSync(directory);
    const { image, content } = make(directory);
    const file = imageFileOf(image);
    const bytes = readdirSync(directory).length === 1 && file === image ? statSync(image).size : null;
    return { name, path: file.slice(folder.length), content, bytes };
  });
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' });
  const files = names.filter((name) => statSync(join(folder, name)).isFile());
  server = new RangeServer(new Uint8Array(0));
  server.serve(Object.fromEntries(files.map((name) => [`/${name}`, readFileSync(join(folder, name))])));
  keeper = openDisk(`${server.origin}${served[0]!.path}`, { readOnly: true, format: 'raw' });
});
afterAll(async () => {
  keeper?.close();
  await server?.close();
  removeTemporaryDirectory(folder);
});

/** Opens the image and reads all of it. @returns why it was not opened, or null; a read that fails is a failure of the test */
function refusalOf({ path, content }: Served): string | null {
  let disk: VirtualDisk;
  try {
    disk = openDisk(`${server.origin}${path}`, { readOnly: true });
  } catch (error) {
    if (!(error instanceof ImgfuseError)) throw error;
    return error.message;
  }
  try {
    expect(firstDifference(readAll(disk), content)).toBe('none');
  } finally {
    disk.close();
  }
  return null;
}

const servers = [
  // what stays the same for a second is taken for the version
  {
    what: 'whose clock is a day behind',
    lastModified: 'Tue, 03 Nov 2026 10:00:00 GMT',
    isWhole: false,
    refusal: null,
  },
  {
    what: 'without validators',
    lastModified: null,
    isWhole: false,
    refusal: /sends neither ETag nor Last-Modified/,
  },
  {
    what: 'that sends files whole, without validators',
    lastModified: null,
    isWhole: true,
    refusal: /sends the whole file and not the range/,
  },
] as const;

test.each(
  servers.flatMap((each) => EVERY_KIND.map(({ name }, index) => ({ ...each, name, index }))),
)('$name on a server $what', ({ index, lastModified, isWhole, refusal }) => {
  const image = served[index]!;
  server.set({ etag: null, lastModified, date: 'Mon, 02 Nov 2026 10:00:00 GMT' });
  server.plan(...(isWhole ? [{ do: 'whole', times: 1_000_000 } as const] : []));
  const sentence = refusalOf(image);
  if (image.bytes === null) {
    const file = `${server.origin}${image.path}`;
    expect(sentence).toMatch(
      new RegExp(
        `^${file} is not opened: its (extent|data file) '.*' would be read from the server, too, and only images of one file are; copy all of its files here$`,
      ),
    );
  } else if (refusal === null || image.bytes <= FIRST_ANSWER) expect(sentence).toBe(null);
  else expect(sentence).toMatch(refusal);
});
