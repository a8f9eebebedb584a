// Looking at an image without opening it: the descriptor, and the headers of the extents that can be reached.

import { describeError, ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { ImageDetails, OpenOptions } from '../image-format.ts';
import { type ExtentLine, parseDescriptor } from './descriptor/parse.ts';
import { findDescriptor } from './descriptor/place.ts';
import { describe, extentDetails } from './details.ts';
import type { ExtentFacts } from './extent.ts';
import { kindOf } from './kinds.ts';

/** An extent that cannot be opened is told, and its line is believed. */
export function inspectVmdk(
  file: HostFile,
  log: (sentence: string) => void = () => undefined,
  openExtent?: OpenOptions['openExtent'],
): ImageDetails {
  const { embedding, isChanging, text } = findDescriptor(file);
  const descriptor = parseDescriptor(text, file.path);
  const seen = new Map<string, ExtentFacts | null>();
  const factsOf = (line: ExtentLine): ExtentFacts | null => {
    if (embedding !== null) return embedding.facts;
    if (openExtent === undefined || line.name === null || line.access === 'NOACCESS') return null;
    if (!seen.has(line.name)) seen.set(line.name, look(line.name, openExtent, log));
    return seen.get(line.name)!;
  };
  const facts = descriptor.extents.map(factsOf);
  const virtualSize = descriptor.extents.reduce(
    (bytes, { length }, i) => bytes + (i === descriptor.extents.length - 1 ? (facts[i]?.capacity ?? length) : length),
    0,
  );
  return describe({
    path: file.path,
    descriptor,
    extents: descriptor.extents.map((line, i) => extentDetails(file.path, line, facts[i]!, embedding !== null)),
    cid: descriptor.cid,
    modificationUuid: descriptor.uuids.modification,
    virtualSize,
    isDirty: isChanging || facts.some((each) => each?.isUnclean === true),
    isOnlyRead: facts.some((each) => (each?.onlyRead ?? null) !== null),
  });
}

/** null: it has no tables, or cannot be looked at. */
function look(
  name: string,
  openExtent: NonNullable<OpenOptions['openExtent']>,
  log: (sentence: string) => void,
): ExtentFacts | null {
  try {
    const file = openExtent(name, 'extent', 'read');
    return kindOf(file)?.inspect(file) ?? null;
  } catch (error) {
    if (!(error instanceof ImgfuseError)) throw error;
    log(describeError(error));
    return null;
  }
}
