// What is known of an image after its clean close, as the next open gets it: written as JSON and read again.

import type { ClosedFacts, WritableImage } from '../../src/format/image-format.ts';

/** `undefined` if the format walks nothing, or the image is not sound. */
export function factsOf(image: WritableImage): ClosedFacts | undefined {
  const facts = image.closedFacts?.() ?? null;
  return facts === null ? undefined : (JSON.parse(JSON.stringify(facts)) as ClosedFacts);
}
