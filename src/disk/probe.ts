// Which format a file is in, by its content. A file of a format that is not opened here is refused by its name and never
// taken for a raw disk. A format that the user has named is not questioned.

import { ImgfuseError } from '../errors/index.ts';
import { endsOf, type FileEnds, isSigned } from '../format/file-ends.ts';
import { FOREIGN_FORMATS, type ForeignFormat } from '../format/foreign.ts';
import type { ImageFormat } from '../format/image-format.ts';
import type { HostFile } from '../host/host-file.ts';
import { loopWindow, openLoopFile } from '../host/loop-device.ts';
import { formatByName, formats, rawFormat } from './registry.ts';

/** The option of the command by which a user says that a file is raw. */
export type RawOption = '--format' | '-F';

/** All formats that can be recognized, those with an engine first. */
const KINDS: readonly (ImageFormat | ForeignFormat)[] = [...formats, ...FOREIGN_FORMATS];

/** What the content of a file says it is. */
interface Recognized {
  /** with its article, as a sentence says it */
  readonly name: string;
  /** undefined if it cannot be opened here */
  readonly format?: ImageFormat;
  readonly cure?: string;
  /** the head says that it is another one, and a guest may have made either end */
  readonly rival?: ImageFormat | ForeignFormat;
}

/**
 * The format of a file: the one that was named, else by its content.
 * @param log gets a sentence when `named` is raw and the content says otherwise, and when the name of a raw disk does
 * @throws ImgfuseError usage for a name that is unknown; unsupported for content of a format that is not opened here
 */
export function formatOf(
  file: HostFile,
  named: string | undefined,
  log: (sentence: string) => void = () => undefined,
  option: RawOption = '--format',
): ImageFormat {
  if (named === undefined) {
    const sayRaw = `add ${option} ${rawFormat.name} if its own bytes are meant to be the disk`;
    const found = probeFormat(file, sayRaw);
    if (found === rawFormat) sayUnusualName(file, sayRaw, log);
    return found;
  }
  const format = formatByName(named);
  const found = format === rawFormat ? (recognize(endsOf(file)) ?? containerBehind(file)) : null;
  if (found !== null) {
    const danger = file.readOnly ? '' : ', and writing to that disk destroys the image';
    log(`${file.path} is ${found.name}; ${option} ${rawFormat.name} makes its own bytes the disk${danger}`);
  }
  return format;
}

/**
 * The format of a file by its content; raw when nothing else fits.
 * @param sayRaw what to do if it is meant as a raw disk
 * @throws ImgfuseError unsupported for a format that is not opened here, and for a loop device over a part of an image
 */
export function probeFormat(file: HostFile, sayRaw: string): ImageFormat {
  const container = containerBehind(file);
  if (container !== null) {
    throw unsupported(
      file,
      `${file.path} is ${container.name}, so it is no disk; mount ${container.path} itself, without loop, offset or ` +
        `sizelimit, which are for the disk that the mount shows; or ${sayRaw}`,
    );
  }
  const found = recognize(endsOf(file));
  if (found === null) return rawFormat;
  const { format, rival } = found;
  if (format !== undefined && rival !== undefined) {
    const names = [format, rival].flatMap((kind) => ('open' in kind ? [`--format ${kind.name}`] : []));
    throw unsupported(
      file,
      `${file.path} ends like ${format.title} and begins like ${rival.title}; a guest may have made one of the two, so it is not ` +
        `guessed: add ${names.join(' or ')}, or ${sayRaw}`,
    );
  }
  if (found.format !== undefined) return found.format;
  throw unsupported(
    file,
    `${file.path} is ${found.name}, and imgfuse does not open that format; ${found.cure}, or ${sayRaw}`,
  );
}

/** The name of the format that a file with these ends would be taken for; null for raw. */
export function recognizedName(ends: FileEnds): string | null {
  return recognize(ends)?.name ?? null;
}

/** An image that has lost the end by which it is told looks like a raw disk. Its name proves nothing, so it is not refused. */
function sayUnusualName({ path, readOnly }: HostFile, sayRaw: string, log: (sentence: string) => void): void {
  const format = formats.find(({ usualName }) => usualName?.test(path) === true);
  if (format === undefined) return;
  const before = readOnly ? '' : ' before you write to it';
  log(
    `${path} is named like ${format.title}, and its content is of no known format, so its own bytes are the disk; it may be damaged or ` +
      `cut short: compare it with a copy${before}, or ${sayRaw}`,
  );
}

function recognize(ends: FileEnds): Recognized | null {
  // a footer that proves that the head is not the file's own comes before every magic
  const owner = KINDS.find(({ ownsHead }) => ownsHead?.(ends));
  const others = KINDS.filter((kind) => kind !== owner);
  // a guest whose data lies at the end of its image can write there what it likes
  const first =
    others.find((kind) => isSigned(kind, ends, 'head')) ?? others.find((kind) => isSigned(kind, ends, 'tail'));
  const found = owner ?? first;
  if (found === undefined) return null;
  const isRival = owner !== undefined && first !== undefined && ('open' in first || first.isGuests !== true);
  const rival = isRival ? { rival: first } : {};
  return 'open' in found ? { name: found.title, format: found, ...rival } : { name: found.title, cure: found.cure };
}

/** The image of which a loop device shows a part; null if there is none, or if the device shows all of it. */
function containerBehind(file: HostFile): { readonly name: string; readonly path: string } | null {
  const window = loopWindow(file);
  const behind = window === null ? null : openLoopFile(window);
  if (window === null || behind === null) return null;
  try {
    const { path, start, end } = window;
    const found = recognize(endsOf(behind));
    if (found === null || (start === 0 && end === behind.size())) return null;
    return { name: `bytes ${start} to ${end} of ${path}, which is ${found.name}`, path };
  } finally {
    behind.close();
  }
}

function unsupported(file: HostFile, message: string): ImgfuseError {
  return new ImgfuseError('unsupported', message, { path: file.path, operation: 'probe' });
}
