// A sparsebundle of macOS, with every field as a test wants it: Info.plist, and the files of its bands by their names.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { MIXED_PIECES } from './piece-bytes.ts';

export interface BundleSpec {
  readonly type?: string;
  readonly version?: string;
  /** elements, such as <integer>4096</integer> */
  readonly band?: string;
  readonly size?: string;
  readonly bandBytes?: number;
  /** one byte for each band, 0 for one without a file */
  readonly pieces?: readonly number[];
}

export interface BundleBytes {
  /** Info.plist */
  readonly image: Buffer;
  readonly content: Buffer;
  readonly bands: ReadonlyMap<string, Buffer>;
}

/** The last band is cut by the end of the disk. */
export function bundleImage(spec: BundleSpec = {}): BundleBytes {
  const { bandBytes = 4096, pieces = MIXED_PIECES } = spec;
  const diskBytes = pieces.length * bandBytes - 3 * 512;
  const image = infoPlist({
    band: `<integer>${bandBytes}</integer>`,
    size: `<integer>${diskBytes}</integer>`,
    ...spec,
  });
  const content = Buffer.concat(pieces.map((byte) => Buffer.alloc(bandBytes, byte))).subarray(0, diskBytes);
  const bands = pieces.flatMap((byte, i): [string, Buffer][] =>
    byte === 0 ? [] : [[i.toString(16), content.subarray(i * bandBytes, (i + 1) * bandBytes)]],
  );
  return { image, content, bands: new Map(bands) };
}

/** As hdiutil writes it. */
export function infoPlist(spec: BundleSpec): Buffer {
  const { type = 'com.apple.diskimage.sparsebundle', version = '<integer>1</integer>' } = spec;
  const entries: [string, string][] = [
    ['CFBundleInfoDictionaryVersion', '<string>6.0</string>'],
    ['band-size', spec.band ?? '<integer>8388608</integer>'],
    ['bundle-backingstore-version', version],
    ['diskimage-bundle-type', `<string>${type}</string>`],
    ['size', spec.size ?? '<integer>0</integer>'],
  ];
  return Buffer.from(
    `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
${entries.map(([key, value]) => `\t<key>${key}</key>\n\t${value}\n`).join('')}</dict>
</plist>
`,
  );
}

/** Writes the files of a bundle into a folder that is there. @param info name of the file that is Info.plist elsewhere */
export function writeBundle(folder: string, { image, bands }: BundleBytes, info = 'Info.plist'): void {
  writeFileSync(join(folder, info), image);
  mkdirSync(join(folder, 'bands'));
  for (const [name, bytes] of bands) writeFileSync(join(folder, 'bands', name), bytes);
  writeFileSync(join(folder, 'token'), '');
}
