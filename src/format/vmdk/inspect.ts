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
    if (!seen.has(line.name)) seen.set(line.name, look(line.name, openExtent, failures));
    return seen.get(line.name)!;
  };
  const failures = new Failures();
  const facts = descriptor.extents.map(factsOf);
  failures.tell(file.path, log);
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
  failures: Failures,
): ExtentFacts | null {
  try {
    const file = openExtent(name, 'extent', 'read');
    return kindOf(file)?.inspect(file) ?? null;
  } catch (error) {
    if (!(error instanceof ImgfuseError)) throw error;
    failures.add(name, describeError(error));
    return null;
  }
}

/** Why extents cannot be looked at: one sentence for each reason, however many extents have it. */
class Failures {
  /** by the sentence without the name of the extent */
  private readonly reasons = new Map<string, { readonly sentence: string; count: number }>();

  add(name: string, sentence: string): void {
    const key = sentence.replaceAll(name, '');
    const reason = this.reasons.get(key);
    if (reason === undefined) this.reasons.set(key, { sentence, count: 1 });
    else reason.count++;
  }

  tell(path: string, log: (sentence: string) => void): void {
    for (const { sentence, count } of this.reasons.values()) {
      const others = count === 2 ? 'one other extent' : `${count - 1} other extents`;
      log(count === 1 ? sentence : `${sentence}; so it is with ${others} of ${path}`);
    }
  }
}
