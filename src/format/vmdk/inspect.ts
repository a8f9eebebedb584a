// Looking at an image without opening it: the descriptor, and the headers of the extents that can be reached.

import type { HostFile } from '../../host/host-file.ts';
import { ExtentLooks } from '../extent-looks.ts';
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
  const descriptor = parseDescriptor(text, file.path, embedding !== null);
  const looks = new ExtentLooks<ExtentFacts | null>(openExtent);
  const factsOf = (line: ExtentLine): ExtentFacts | null => {
    if (embedding !== null) return embedding.facts;
    if (line.name === null || line.access === 'NOACCESS') return null;
    return looks.look(line.name, (extent) => kindOf(extent)?.inspect(extent) ?? null);
  };
  const facts = descriptor.extents.map(factsOf);
  looks.tell(file.path, log);
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
