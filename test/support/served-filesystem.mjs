// Which Filesystem the server of a test mount serves: the plain one over a file, or the real one over a disk image.
// `prepare` runs once in the main thread; `attach` gives each thread its own object over the same state.

import { attachDisk, openDisk } from '../../dist/disk/index.js';
import { createTree, DiskFilesystem } from '../../dist/filesystem/index.js';
import { createSharedAttributes, PlainFilesystem } from './plain-filesystem.mjs';

/** @returns structured-clonable state for `attach`, and what closes it when nobody serves any more */
export function prepare(options) {
  if (options.filesystem === 'plain') return { shared: { attributes: createSharedAttributes() }, close: () => {} };
  const disk = openDisk(options.backing, {
    readOnly: options.readOnly,
    format: options.format,
    slots: options.workers + 1,
  });
  const owner = { uid: process.getuid(), gid: process.getgid() };
  const shown = { shows: ['partitions'] };
  const tree = (rootIsFile) => createTree(disk, { rootIsFile, part: options.part, ...shown, ...owner });
  return { shared: { disk: disk.share(), trees: [tree(false), tree(true)] }, close: () => disk.close() };
}

/** @param slot of this thread; 0 is the main thread's @param pages of the kernel, as it serves them */
export function attach(options, shared, rootIsFile, slot, pages) {
  if (options.filesystem === 'plain')
    return new PlainFilesystem({ ...options, rootIsFile, attributes: shared.attributes });
  const tree = shared.trees[rootIsFile ? 1 : 0];
  return new DiskFilesystem(attachDisk(shared.disk, slot), tree, undefined, undefined, pages);
}
