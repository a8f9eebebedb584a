// The mount of an image on behalf of `attach` and `detach`, and what they say: the same mount processes as those of `mount` and
// `unmount`, whose sentences become part of the answer.

import { describeOverlayAtEnd } from '../daemon/overlay-report.ts';
import { EXIT_OK } from '../errors/exit-codes.ts';
import { ImgfuseError } from '../errors/index.ts';
import type { ClosedImage } from '../guest/detach.ts';
import { assertLimits } from '../host/process-limits.ts';
import { findTarget, type Target } from '../mounts/target.ts';
import { processEnded, unmountTarget } from './commands/unmount.ts';
import { mountRequest, type ParsedMountArguments } from './mount-arguments.ts';
import { startInBackground } from './start-mount.ts';

/** Mounts an image in the background. @throws ImgfuseError as the mount process reported it */
export async function openImage(parsed: ParsedMountArguments): Promise<void> {
  const request = { ...mountRequest(parsed), foreground: false, debug: false, json: false };
  assertLimits(request.workers);
  let failure: ImgfuseError | null = null;
  const exitCode = await startInBackground(request, ({ kind, operation, sentence }) => {
    const context = operation === undefined ? {} : { operation };
    failure = new ImgfuseError(kind ?? 'io', sentence, { path: request.image, ...context });
  });
  if (exitCode === EXIT_OK) return;
  throw failure ?? new ImgfuseError('io', `${request.image} is not mounted`, { path: request.image });
}

/** Unmounts the image that is mounted there and waits for its close; null if there is neither a mount nor a process. */
export async function closeImage(mountpoint: string): Promise<ClosedImage | null> {
  const target = targetAt(mountpoint);
  if (target === null) return null;
  const left = target.record?.alive === false ? target.record.left : undefined;
  const outcome = await unmountTarget(target, { lazy: false, patient: true, output: 'human', quiet: true }).catch(
    (error) => endingBy(target, error),
  );
  if (outcome === null) return null;
  const { closed, clean, error, notes, overlay, exitCode } = outcome;
  if (target.record !== null) await processEnded(target.record);
  // a mount whose process is gone is removed; whether that had closed the image is what it has left behind
  const isRemoved = exitCode === EXIT_OK && !closed;
  // a mount process that was ended while it opened the image has changed nothing
  const isUntouched = exitCode === EXIT_OK && closed;
  const kept = overlay === undefined ? [] : [describeOverlayAtEnd(overlay)];
  const isClean = clean || isUntouched || left?.clean === true;
  return { closed: closed || isRemoved, clean: isClean, error, notes: [...notes, ...kept] };
}

function targetAt(mountpoint: string): Target | null {
  try {
    return findTarget(mountpoint);
  } catch (error) {
    if (error instanceof ImgfuseError && error.kind === 'missing') return null;
    throw error;
  }
}

/**
 * A mount process that has lost the command that started it mounts nothing, answers nobody, and ends.
 * @returns null, when it has ended @throws ImgfuseError `error`, or busy: it goes on
 */
async function endingBy({ mount, mountpoint, record }: Target, error: unknown): Promise<null> {
  const isGone = error instanceof ImgfuseError && error.kind === 'missing' && mount === null;
  if (!isGone || record === null) throw error;
  await processEnded(record);
  if (targetAt(mountpoint) === null) return null;
  const message = `process ${record.pid} opens ${record.image} and does not answer; detach again when it has ended`;
  throw new ImgfuseError('busy', message, { path: mountpoint });
}
