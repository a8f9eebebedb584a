// What a VHDX is: its headers, what its log holds, and then, as the log leaves them, where its tables are and what disk it is.

import type { HostFile } from '../../../host/host-file.ts';
import { findReplay, type Replay } from '../log/replay.ts';
import { ReplayedFile } from '../log/replayed-file.ts';
import { checkFileIdentifier } from './file-identifier.ts';
import { type Headers, readHeaders } from './header.ts';
import { type DiskFacts, readMetadata } from './metadata.ts';
import { type Regions, readRegions } from './region-table.ts';

export interface Layout {
  readonly headers: Headers;
  readonly regions: Regions;
  readonly disk: DiskFacts;
  /** null: the log holds nothing */
  readonly replay: Replay | null;
  /** the file with its log replayed in memory; the file itself if there is nothing to replay */
  readonly view: HostFile;
}

/** @throws ImgfuseError corrupt, unsupported, limit: no disk can be read from the file */
export function readLayout(file: HostFile): Layout {
  checkFileIdentifier(file);
  const headers = readHeaders(file);
  const replay = findReplay(file, headers.current);
  const view = viewOf(file, replay);
  const regions = readRegions(view, headers.current);
  const disk = readMetadata(view, regions.metadata);
  return { headers, regions, disk, replay, view };
}

export function viewOf(file: HostFile, replay: Replay | null): HostFile {
  return replay === null ? file : new ReplayedFile(file, replay);
}
