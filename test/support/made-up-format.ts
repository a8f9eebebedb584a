// A format that does not exist, for what no format of today needs: it is only read, has any number of extents, and knows its
// parent by an identity. A file is "MADEUP\n" and JSON; the disk is its extents one behind the other, holes where it says so.

import type { GuestOffset } from '../../src/bytes/offsets.ts';
import { hostOffset } from '../../src/bytes/offsets.ts';
import type {
  AttachOptions,
  Extent,
  ImageDetails,
  ImageFile,
  ImageFormat,
  OpenOptions,
  ReadableImage,
  ReadOnlyImage,
  SharedImage,
} from '../../src/format/image-format.ts';
import { shareImage } from '../../src/format/image-format.ts';
import { readBackingData } from '../../src/format/mapped/backing.ts';
import type { HostFile } from '../../src/host/host-file.ts';

const MAGIC = 'MADEUP\n';

export interface MadeUp {
  readonly identity?: string;
  readonly parent?: {
    readonly name: string;
    readonly otherNames?: readonly string[];
    readonly identity: readonly string[];
  };
  /** names; null: unallocated, EXTENT_BYTES long, as every extent is */
  readonly extents: readonly (string | null)[];
}

export const EXTENT_BYTES = 4096;

export function madeUpFile(content: MadeUp): Uint8Array {
  return Buffer.from(MAGIC + JSON.stringify(content));
}

class MadeUpImage implements ReadOnlyImage {
  readonly format = 'madeup';
  readonly readOnly = true;
  readonly clusterSize = EXTENT_BYTES;
  readonly file: HostFile;
  readonly files: readonly ImageFile[];
  readonly backing: ReadableImage | null;
  readonly identity?: string;
  private readonly content: MadeUp;
  private readonly places: readonly (HostFile | null)[];

  constructor(file: HostFile, content: MadeUp, backing: ReadableImage | null, extents: readonly HostFile[]) {
    this.file = file;
    this.content = content;
    this.backing = backing;
    this.files = [{ role: 'image', file }, ...extents.map((extent) => ({ role: 'extent' as const, file: extent }))];
    const left = [...extents];
    this.places = content.extents.map((name) => (name === null ? null : left.shift()!));
    if (content.identity !== undefined) this.identity = content.identity;
  }

  virtualSize(): number {
    return this.places.length * EXTENT_BYTES;
  }

  allocatedBytes(): number {
    return (this.files.length - 1) * EXTENT_BYTES;
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    for (let done = 0; done < length; ) {
      const { length: part, holder } = this.map((offset + done) as GuestOffset, length - done);
      const at = targetOffset + done;
      if (holder !== undefined) holder.read(target, at, part, hostOffset((offset + done) % EXTENT_BYTES));
      else if (this.backing === null) target.fill(0, at, at + part);
      else readBackingData(this.backing, target, at, part, (offset + done) as GuestOffset);
      done += part;
    }
  }

  map(offset: GuestOffset, length: number): Extent {
    const inExtent = offset % EXTENT_BYTES;
    const part = Math.min(length, EXTENT_BYTES - inExtent);
    const holder = this.places[(offset - inExtent) / EXTENT_BYTES]!;
    if (holder === null) return { start: offset, length: part, status: 'unallocated' };
    return { start: offset, length: part, status: 'data', hostOffset: inExtent, holder };
  }

  mapStatus(offset: GuestOffset, length: number): Extent {
    return this.map(offset, length);
  }

  mapContent(offset: GuestOffset, length: number): Extent {
    return this.map(offset, length);
  }

  close(): void {}

  abandon(): void {}

  details(): ImageDetails {
    return detailsOf(this.content);
  }

  share(): SharedImage {
    return shareImage(this, this.content);
  }
}

function contentOf(file: HostFile): MadeUp {
  const bytes = new Uint8Array(file.size());
  file.read(bytes, 0, bytes.length, hostOffset(0));
  return JSON.parse(Buffer.from(bytes).toString().slice(MAGIC.length)) as MadeUp;
}

function detailsOf({ extents }: MadeUp): ImageDetails {
  return {
    format: 'madeup',
    virtualSize: extents.length * EXTENT_BYTES,
    clusterSize: EXTENT_BYTES,
    dirty: false,
    specific: {},
  };
}

export const madeUp: ImageFormat = {
  name: 'madeup',
  title: 'a made-up image',
  magics: [{ at: 0, text: MAGIC }],
  can: { write: false, resize: false, backing: true, lazyRefcounts: false },
  open: (file: HostFile, { openBacking, openExtent }: OpenOptions) => {
    const content = contentOf(file);
    const { parent } = content;
    const extents = content.extents.flatMap((name) => (name === null ? [] : [openExtent!(name, 'extent', 'read')]));
    const backing =
      parent === undefined
        ? null
        : openBacking({
            name: parent.name,
            ...(parent.otherNames === undefined ? {} : { otherNames: parent.otherNames }),
            identity: { word: 'made-up number', values: parent.identity },
          });
    return new MadeUpImage(file, content, backing, extents);
  },
  attach: (file: HostFile, shared: SharedImage, { backing, extents }: AttachOptions) =>
    new MadeUpImage(file, shared.state as MadeUp, backing, extents),
  inspect: (file: HostFile) => detailsOf(contentOf(file)),
};
