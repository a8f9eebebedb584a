// The keys of `create -o` as the plug of a format lists them. The help, the check against the manual page and the refusal of
// an unknown key are all made from this list, so a key that is missing here cannot be used.

import { didYouMean, ImgfuseError } from '../errors/index.ts';

export interface CreateOption {
  readonly key: string;
  /** what may stand behind "key=", such as "SIZE" or "off|falloc|full" */
  readonly value: string;
  /** what it sets, with its default, as a phrase */
  readonly text: string;
}

/** What the help of `create` says of a format. */
export interface CreateHelp {
  readonly options: readonly CreateOption[];
  /** arguments behind "imgfuse create -f FORMAT", and what they do */
  readonly examples: readonly (readonly [line: string, text: string])[];
}

/** @throws ImgfuseError usage for a key that the format does not have */
export function refuseUnknownKeys(
  format: string,
  { options: known }: CreateHelp,
  options: ReadonlyMap<string, string>,
): void {
  const keys = known.map(({ key }) => key);
  for (const key of options.keys()) {
    if (keys.includes(key)) continue;
    const hint = didYouMean(key, keys);
    throw new ImgfuseError(
      'usage',
      `${format} has no option '${key}'${hint === '' ? `; it has ${keys.join(', ')}` : hint}`,
    );
  }
}
