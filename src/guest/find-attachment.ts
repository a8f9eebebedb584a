// Finds the attachment that a command means: by a directory with the guest's files, by the image, by a loop device over its disk, or
// by the mountpoint of the image.

import { shellQuote } from '../bytes/printable.ts';
import { ImgfuseError } from '../errors/index.ts';
import { canonicalEntry, canonicalPath } from '../host/canonical-path.ts';
import { loopDevicesOver } from '../mounts/users.ts';
import { type Attachment, listAttachments } from './attachments.ts';
import { guestMountsOf } from './guest-mounts.ts';

/** @throws ImgfuseError missing; usage if an image is attached at several places */
export function findAttachment(name: string): Attachment {
  const all = listAttachments();
  const names = [canonicalEntry(name), canonicalPath(name)];
  const at = all.filter((each) => placesOf(each).some((place) => names.includes(place)));
  if (at.length > 0) return oneAt(name, at);
  const over = all.find(({ disk }) => loopDevicesOver(disk).some((loop) => loop.names.includes(name)));
  if (over !== undefined) return over;
  const ofImage = all.filter(({ image }) => image === canonicalPath(name));
  const [first, ...more] = ofImage;
  if (first === undefined) {
    throw new ImgfuseError('missing', `${name} is not attached; "imgfuse status" lists what is mounted`, {
      path: name,
    });
  }
  if (more.length === 0) return first;
  const places = ofImage.map(({ directory }) => directory).join(' and ');
  throw new ImgfuseError('usage', `${name} is attached at ${places}; name the directory`, { path: name });
}

/** A place may be in the records of several: those whose files were unmounted there by hand made way for the others. */
function oneAt(name: string, at: readonly Attachment[]): Attachment {
  const [first, ...more] = at.filter((each) => !isLeftover(each));
  if (first === undefined) return at[0]!;
  if (more.length === 0) return first;
  const images = [first, ...more].map(({ image }) => image).join(' and ');
  throw new ImgfuseError('usage', `${images} are attached at ${name}; name the image`, { path: name });
}

/** For `unmount`, which does not take apart what an attach has made; null if the name means no attachment. */
export function describeAttached(name: string): string | null {
  try {
    const { image, directory } = findAttachment(name);
    return `${image} is attached at ${directory}; "imgfuse detach ${shellQuote(directory)}" takes all of it back`;
  } catch {
    return null;
  }
}

/** The paths that mean an attachment. */
export function placesOf({ directory, disk, raw, partitions }: Attachment): string[] {
  return [directory, disk, raw, ...partitions.map((each) => each.directory)];
}

/** The command that made it was killed, or its file systems were unmounted by hand: nobody uses it any more. */
export function isLeftover(attachment: Attachment): boolean {
  const { alive, state, forProgram } = attachment;
  return !alive && (state === 'attaching' || forProgram || guestMountsOf(attachment).length === 0);
}
