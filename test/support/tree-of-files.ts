// The tree of a mount without the files that only a whole mount can answer for: an opening always gives a handle.

import { DiskFilesystem } from '../../src/filesystem/index.ts';
import type { OpenedFile } from '../../src/fuse/filesystem.ts';

export class TreeOfFiles extends DiskFilesystem {
  override open(node: number, flags: number, pid?: number): OpenedFile {
    const opened = super.open(node, flags, pid);
    if (opened === 'later') throw new Error('the main thread would answer this');
    return opened;
  }
}
