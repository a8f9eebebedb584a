// The plug of raw: the file is the disk. Any file can be a raw image, so a guess is dangerous: if the guest wrote the magic of
// another format to one end of its disk, the next open would take its data for metadata. An image that was guessed to be raw
// refuses such writes (probe-guard.ts); an image that the user named raw does not.

import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { type CreateHelp, refuseUnknownKeys } from '../create-option.ts';
import type { AttachOptions, CreateOptions, OpenOptions, SharedImage, WritableFormat } from '../image-format.ts';
import { RawImage, rawSize } from './image.ts';
import { createRawState, type RawState } from './state.ts';

const RAW_CREATE_HELP: CreateHelp = {
  options: [
    { key: 'preallocation', value: 'off|falloc|full', text: 'take the space of the whole disk at once; default off' },
  ],
  examples: [],
};

export const raw: WritableFormat = {
  name: 'raw',
  title: 'a raw image',
  magics: [],
  can: { write: true, resize: true, backing: false, lazyRefcounts: false },
  createHelp: RAW_CREATE_HELP,
  open: openRaw,
  attach: attachRaw,
  create: createRaw,
  inspect: (file) => ({
    format: 'raw',
    virtualSize: rawSize(file.size()),
    clusterSize: null,
    dirty: false,
    specific: {},
  }),
};

function openRaw(file: HostFile, options: OpenOptions): RawImage {
  const size = file.size();
  if (options.probed && (size === 0 || size !== rawSize(size))) {
    throw new ImgfuseError(
      'usage',
      `${file.path} is not an image of a known format, and its ${size} bytes are not whole sectors of 512 bytes; ` +
        'if it is a raw image nevertheless, add --format raw',
      { path: file.path },
    );
  }
  return new RawImage(file, createRawState(rawSize(size), options.probed), options);
}

function attachRaw(file: HostFile, shared: SharedImage, options: AttachOptions): RawImage {
  return new RawImage(file, shared.state as RawState, options);
}

/** The size is rounded up to 512 bytes. */
function createRaw(file: HostFile, { size, options }: CreateOptions): void {
  refuseUnknownKeys('raw', RAW_CREATE_HELP, options);
  const preallocation = options.get('preallocation') ?? 'off';
  if (!['off', 'falloc', 'full'].includes(preallocation)) {
    throw new ImgfuseError('usage', `preallocation=${preallocation} is not valid; use off, falloc or full`);
  }
  const length = rawSize(size);
  file.truncate(length);
  if (length > 0 && preallocation === 'falloc') file.allocateRange(0 as never, length);
  if (preallocation === 'full') {
    const zeros = new Uint8Array(1024 * 1024);
    for (let at = 0; at < length; at += zeros.length) {
      file.write(zeros, 0, Math.min(zeros.length, length - at), at as never);
    }
  }
  file.sync();
}
