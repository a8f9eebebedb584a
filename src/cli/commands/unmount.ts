// `imgfuse unmount`: unmounts and returns when the image is closed; exit code 0 means closed and clean.
// Invariant: it registers with the mount process before it unmounts, so it cannot miss the result of the close.

import { setTimeout as delay } from 'node:timers/promises';
import { printable, shellQuote } from '../../bytes/printable.ts';
import { type CloseResult, ControlClient } from '../../daemon/control-socket.ts';
import type { MountStatus } from '../../daemon/mount-status.ts';
import { changedFile, describeOverlayAtEnd, type OverlayReport } from '../../daemon/overlay-report.ts';
import { sentenceOfWaiting } from '../../daemon/status-sentences.ts';
import { EXIT_MOUNT, EXIT_OK, mountExitCode } from '../../errors/exit-codes.ts';
import { describeError, ImgfuseError } from '../../errors/index.ts';
import { pathKind } from '../../host/canonical-path.ts';
import { processStartTime } from '../../host/processes.ts';
import { commandThere, describePlace, type PlaceElsewhere, placeElsewhere } from '../../mounts/namespaces.ts';
import { forgetRecord, ownUid, type StoredRecord } from '../../mounts/runtime-directory.ts';
import { findTarget, type Target } from '../../mounts/target.ts';
import { forgetForUmount } from '../../mounts/umount-note.ts';
import { otherPlacesOf, unmountOrExplain } from '../../mounts/unmount-or-explain.ts';
import { describeUsers, findMountUsers } from '../../mounts/users.ts';
import { type Command, TARGET_NAME } from '../command.ts';
import { complain, type OutputMode, print, printJson } from '../output.ts';

/** after this time a waiting unmount says what it is waiting for */
const PATIENCE_MS = 2000;
/** how long a copy of the mount in another mount namespace may take to go away */
const NAMESPACE_PATIENCE_MS = 8000;
/** how long a process that serves a mount may take to say so */
const ANSWER_MS = 1000;
/** how long a process that has nothing left to do may take to end */
const PROCESS_END_MS = 3000;
const LOOK_MS = 5;

export interface UnmountOptions {
  readonly lazy: boolean;
  /** waits for the close without a limit; otherwise a lazy unmount answers after a short while */
  readonly patient: boolean;
  readonly output: OutputMode;
  readonly quiet: boolean;
}

export interface Outcome {
  readonly closed: boolean;
  readonly clean: boolean;
  readonly image?: string | undefined;
  readonly error?: string | undefined;
  /** what the file that took the changes holds; absent: the image took them */
  readonly overlay?: OverlayReport | undefined;
  /** sentences for the user, in addition to the result */
  readonly notes: readonly string[];
  readonly exitCode: number;
}

export async function unmount(path: string, options: UnmountOptions): Promise<number> {
  let mountpoint = path;
  let outcome: Outcome;
  try {
    const target = findTarget(path);
    mountpoint = target.mountpoint;
    outcome = await unmountTarget(target, options);
  } catch (error) {
    if (!(error instanceof ImgfuseError)) throw error;
    const { describeAttached } = await import('../../guest/find-attachment.ts');
    const reason = describeAttached(path) ?? describeError(error);
    outcome = { closed: false, clean: false, error: reason, notes: [], exitCode: mountExitCode(error) };
  }
  if (options.output === 'json') {
    const { image, closed, clean, error, overlay, notes } = outcome;
    printJson({ mountpoint, image, closed, clean, error, overlay, notes });
  }
  if (outcome.error !== undefined) complain(outcome.error);
  for (const note of outcome.notes) complain(note);
  if (outcome.exitCode === EXIT_OK && options.output === 'human' && outcome.clean) {
    const { image, overlay } = outcome;
    if (!options.quiet) print(printable(`${overlay?.filename ?? image ?? mountpoint} is closed and clean`));
    if (overlay !== undefined) print(printable(describeOverlayAtEnd(overlay)));
  }
  return outcome.exitCode;
}

/** @throws ImgfuseError what keeps it mounted */
export async function unmountTarget(target: Target, options: UnmountOptions): Promise<Outcome> {
  const { record, mount } = target;
  const image = record?.image ?? mount?.source;
  const client = record?.alive === true ? await ControlClient.connect(record.socketPath) : null;
  if (client === null) return unmountWithoutProcess(target, image, options);
  try {
    const result = client.wait();
    // the server answers lines in order: this answer means that the wait is registered
    await Promise.race([client.hello(), result]);
    if (mount === null && record!.opening) return await endOpening(record!, result);
    // ask before the unmount: the users of a detached mount cannot be found by its path
    const users = options.lazy ? describeUsers(await findMountUsers(target.mountpoint)) : null;
    if (mount !== null) {
      await unmountOrExplain(mount, options.lazy).catch(async (error) => {
        throw await explainWaiting(error, client, record!);
      });
      const elsewhere = otherPlacesOf(mount);
      if (elsewhere.length > 0) return elsewhereOutcome(target, image, elsewhere);
    }
    const ended = mount === null && placeElsewhere(target) !== null ? null : await endedSoon(result);
    if (ended !== null) return await closeOutcome(image, ended.result, record!);
    // look only now: the unmounted file system may have needed that moment to end
    const place = placeElsewhere(target);
    if (place !== null) {
      // a short-lived namespace, such as that of a sandbox, goes away by itself
      const late = mount === null ? null : await endedSoon(result, NAMESPACE_PATIENCE_MS);
      return late === null ? namespaceOutcome(target, image, place) : await closeOutcome(image, late.result, record!);
    }
    complain(await describeWait(client, target, users, options));
    if (!options.patient) return { closed: false, clean: false, image, notes: [], exitCode: EXIT_OK };
    return await closeOutcome(image, await result, record!);
  } finally {
    client.close();
  }
}

/** Stops a mount process that is still opening its image, so that nothing gets mounted. */
async function endOpening(record: StoredRecord, result: Promise<CloseResult | null>): Promise<Outcome> {
  const { image, pid } = record;
  process.kill(pid, 'SIGTERM');
  const ended = await result;
  if (ended === null || ended.started !== false) return closeOutcome(image, ended, record);
  const notes = [`${image} was still being opened by process ${pid}, which has been ended; nothing was mounted`];
  return { closed: true, clean: false, image, notes, exitCode: EXIT_OK };
}

/** The result for a mount that was unmounted at one place and is still bind-mounted at others. */
function elsewhereOutcome(
  target: Target,
  image: string | undefined,
  places: readonly { readonly mountpoint: string }[],
): Outcome {
  const error =
    `${target.mountpoint} is unmounted, but ${image} stays open: it is still mounted at ` +
    `${places.map(({ mountpoint }) => mountpoint).join(' and ')}; unmount that as well`;
  return { closed: false, clean: false, image, error, notes: [], exitCode: EXIT_MOUNT };
}

/** Who waits for space on the host keeps the mount busy: then that is the cause, and it has another cure. */
async function explainWaiting(error: unknown, client: ControlClient, { pid }: StoredRecord): Promise<unknown> {
  if (!(error instanceof ImgfuseError) || error.kind !== 'busy') return error;
  const status = (await client.status(true, ANSWER_MS)) as Partial<MountStatus> | null;
  const waiting = status?.['waiting-for-space'];
  if (waiting === undefined) return error;
  const cure = `make space, or give up what waits with "kill ${pid}", which ends the mount`;
  return new ImgfuseError('busy', `${error.message}. ${sentenceOfWaiting(waiting)}: ${cure}`, error.context);
}

/** The result, if it comes within a short time. */
async function endedSoon(
  result: Promise<CloseResult | null>,
  patienceMs = PATIENCE_MS,
): Promise<{ readonly result: CloseResult | null } | null> {
  const controller = new AbortController();
  const patience = delay(patienceMs, null, { signal: controller.signal }).catch(() => null);
  const first = await Promise.race([result.then((value) => ({ result: value })), patience]);
  controller.abort();
  return first;
}

function namespaceOutcome(target: Target, image: string | undefined, place: PlaceElsewhere): Outcome {
  const state =
    target.mount === null ? `${image} is mounted` : `${target.mountpoint} is unmounted, but ${image} is still mounted`;
  const error = `${state} ${describePlace(place)}; run "${commandThere(place)}"`;
  return { closed: false, clean: false, image, error, notes: [], exitCode: EXIT_MOUNT };
}

/** Says what a long wait is for, if that is known. */
async function describeWait(
  client: ControlClient,
  { record, mountpoint }: Target,
  users: string | null,
  options: UnmountOptions,
): Promise<string> {
  const what = record?.image ?? mountpoint;
  if (users !== null) return `${what} is detached and closes when its users end: ${users} ...`;
  const answer = options.lazy ? null : await client.status(true, ANSWER_MS);
  if (answer === null || answer['state'] === 'closing') {
    return `waiting for ${what} to be written and closed ...`;
  }
  return `waiting for ${what}: its process ${record?.pid} still serves it, although nothing is mounted here any more ...`;
}

async function closeOutcome(
  image: string | undefined,
  result: CloseResult | null,
  record: StoredRecord,
): Promise<Outcome> {
  const overlay = result?.overlay;
  if (result?.clean === true) return { closed: true, clean: true, image, overlay, notes: [], exitCode: EXIT_OK };
  const changed = changedFile(record);
  const error =
    result === null
      ? `the process ${record.pid} that served ${record.image} ended without saying whether ${changed} is clean`
      : `${changed} was not closed clean: ${result.error ?? 'no reason was given'}`;
  const notes = recoverySteps(record);
  // a process that ended without an answer leaves its files; a killed one closes its sockets a while before it has ended
  if (result === null && (await processEnded(record))) forgetRecord(record);
  return { closed: result !== null, clean: false, image, error, overlay, notes, exitCode: EXIT_MOUNT };
}

async function unmountWithoutProcess(
  target: Target,
  image: string | undefined,
  options: UnmountOptions,
): Promise<Outcome> {
  const { record, mount } = target;
  if (mount === null) {
    throw new ImgfuseError('missing', `${target.mountpoint} is not mounted`, { path: target.mountpoint });
  }
  if (record?.alive === true && record.owner === ownUid()) await processEnded(record);
  // a mount answers ENOTCONN only if no process holds its connection
  const isDead = pathKind(target.mountpoint) === 'dead';
  await unmountOrExplain(mount, options.lazy);
  if (isDead) {
    forgetForUmount(target.mountpoint, () => undefined);
    if (record !== null) forgetRecord(record);
    const left = record?.left;
    const why = left?.reason ?? `the process that served ${image ?? target.mountpoint} had ended without closing it`;
    const state = left?.clean === true ? `; ${record === null ? image : changedFile(record)} is closed and clean` : '';
    const steps = left?.clean === true ? [] : recoverySteps(record ?? { image: image ?? 'IMAGE', log: null });
    const notes = [`${why}${state}; the dead mount is removed`, ...steps];
    return { closed: false, clean: false, image, notes, exitCode: EXIT_OK };
  }
  const isOurs = mount.options.includes(`user_id=${ownUid()}`);
  const error =
    `${target.mountpoint} is unmounted, but the process that serves ${image ?? 'it'} could not be asked: ` +
    `whether the image is closed and clean is not known${isOurs ? '' : ' (run this as the user who mounted it)'}`;
  return { closed: false, clean: false, image, error, notes: [], exitCode: EXIT_MOUNT };
}

function recoverySteps(record: Pick<StoredRecord, 'image' | 'log' | 'overlay'>): string[] {
  const { image, log, overlay } = record;
  const logNote = log === null ? [] : [`the log of that mount is ${log}`];
  if (overlay?.isTemporary === true) return [`the changes were thrown away, ${image} is as it was`, ...logNote];
  const name = shellQuote(changedFile(record));
  return [
    `the ${overlay === undefined ? 'image' : 'overlay'} may be marked as not closed clean: the next read-write mount checks and repairs it; ` +
      `"imgfuse check ${name}" looks without changing anything, "imgfuse check -r all ${name}" repairs`,
    ...logNote,
  ];
}

export const unmountCommand: Command = {
  name: 'unmount',
  aliases: ['umount'],
  summary: 'Unmount, and wait until the image is closed and clean',
  names: [TARGET_NAME],
  options: {
    lazy: { type: 'boolean', short: 'l', description: 'detach at once, wait until its last user has ended' },
  },
  examples: [
    ['imgfuse unmount /mnt/img', 'returns when the image is flushed, marked clean and unlocked'],
    ['umount /mnt/guest && imgfuse unmount disk.qed', 'what lies on the disk first, then the disk'],
  ],
  epilogue: 'Exit status: 0 closed and clean; 1 usage or permission; 2 system error; 32 failed, or not clean.',
  run: (args: { readonly target: string; readonly lazy?: boolean; readonly output: OutputMode }) =>
    unmount(args.target, { lazy: args.lazy === true, patient: true, output: args.output, quiet: true }),
};

/**
 * A mount process that has closed its image, or was killed, takes a moment to end and to let its mount go.
 * @returns whether it has ended, after three seconds at most
 */
export async function processEnded({
  pid,
  processStart,
}: {
  readonly pid: number;
  readonly processStart: number;
}): Promise<boolean> {
  const end = performance.now() + PROCESS_END_MS;
  const isThere = (): boolean => processStartTime(pid) === processStart;
  while (isThere() && performance.now() < end) await delay(LOOK_MS);
  return !isThere();
}
