// An open host file in another thread, from what the thread that opened it shares.

import { ImgfuseError } from '../errors/index.ts';
import type { HostFile } from './host-file.ts';
import { HttpHostFile } from './http/http-file.ts';
import { PieceFiles } from './piece-files.ts';
import { PosixHostFile } from './posix-file.ts';
import type { SharedFile } from './shared-file.ts';

/** Throws unsupported for a file that belongs to one thread. */
export function attachHostFile(shared: SharedFile): HostFile {
  if (shared.kind === 'descriptor') return PosixHostFile.attach(shared.path, shared.descriptor, shared.readOnly);
  if (shared.kind === 'pieces') return PieceFiles.attach(shared.path, shared.descriptor, shared.layout);
  if (shared.kind === 'http') return HttpHostFile.attach(shared.path, shared.state);
  throw new ImgfuseError('unsupported', `${shared.path} cannot be used by another thread`, { path: shared.path });
}
