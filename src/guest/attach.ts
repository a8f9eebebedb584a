// Attaches an image: mounts it, finds the guest's file systems on its disk, and mounts those that were chosen. Invariant: whatever
// fails or interrupts it, it takes back what it has made; if it is killed, the record tells detach.ts what is left.

import { ImgfuseError } from '../errors/index.ts';
import { pathKind } from '../host/canonical-path.ts';
import { processStartTime } from '../host/processes.ts';
import { assertMountpoint } from '../mounts/mountpoint.ts';
import {
  type AttachedPartition,
  type Attachment,
  type AttachmentRecord,
  listAttachments,
  makePlaces,
  newAttachmentPath,
  ownFilesDirectory,
  writeRecord,
} from './attachments.ts';
import {
  choosePartitions,
  closedBeside,
  type GuestPartition,
  nameOf,
  type PartitionChoice,
} from './choose-partition.ts';
import { type DetachTools, detach } from './detach.ts';
import { readGuestPartitions } from './disk-content.ts';
import { isLeftover, placesOf } from './find-attachment.ts';
import { type MountedGuest, mountGuest } from './mount-guest.ts';

export interface AttachRequest {
  /** the image as its mount records it: absolute, or a URL */
  readonly image: string;
  /** null: a directory is made */
  readonly directory: string | null;
  readonly choice: PartitionChoice;
  readonly readOnly: boolean;
  /** read-only instead, and said, if the image cannot be written */
  readonly mayFallBack: boolean;
  /** nothing is written to the image, whatever the guest writes */
  readonly writesAside: boolean;
  /** for the guest's file systems */
  readonly guestOptions: readonly string[];
  readonly allowOther: boolean;
  readonly forProgram: boolean;
}

/** What attaching needs from the command. */
export interface AttachTools extends DetachTools {
  /** Mounts the image there. @throws ImgfuseError as the mount process reported it */
  openImage(mountpoint: string, access: ImageAccess): Promise<void>;
  readonly abort: AbortSignal;
  /** @throws what ends the command if it was told to end */
  checkpoint(): void;
}

export interface ImageAccess {
  readonly readOnly: boolean;
  /** beside a program that writes the image */
  readonly share: boolean;
}

/** @throws ImgfuseError; nothing is left then, or a note says what is */
export async function attach(request: AttachRequest, tools: AttachTools): Promise<Attachment> {
  await clearTheWay(request, tools);
  if (request.directory !== null) assertDirectory(request.directory, request.choice === 'all');
  const recordPath = newAttachmentPath(request.image);
  const directory = request.directory ?? ownFilesDirectory(recordPath);
  let attachment = writeRecord(recordPath, firstRecord(request, directory));
  const change = (changes: Partial<AttachmentRecord>): void => {
    const { recordPath: _, disk, raw, alive, ...record } = { ...attachment, ...changes };
    attachment = writeRecord(recordPath, record);
  };
  try {
    makePlaces(attachment);
    const access = await openImage(attachment, request, tools);
    tools.checkpoint();
    const all = readGuestPartitions(attachment.raw, tools.note);
    const chosen = choosePartitions(request.image, all, request.choice);
    if (request.choice === 'auto') for (const each of closedBeside(all, chosen)) tools.note(each);
    const places = chosen.map((each) => placeFor(each, directory, request.choice));
    change({ readOnly: access.readOnly || request.writesAside, ...madeFor(places, attachment) });
    makePlaces(attachment);
    const left = await mountAll(attachment, chosen, { request, tools, access });
    change({ state: 'attached', partitions: places.filter((_, index) => !left.has(chosen[index]!)) });
    tools.checkpoint();
    return attachment;
  } catch (error) {
    await takeBack(attachment, tools);
    throw error;
  }
}

function firstRecord(request: AttachRequest, directory: string): AttachmentRecord {
  return {
    image: request.image,
    directory,
    made: request.directory === null ? [directory] : [],
    state: 'attaching',
    forProgram: request.forProgram,
    pid: process.pid,
    processStart: processStartTime(process.pid) ?? 0,
    readOnly: request.readOnly || request.writesAside,
    writesAside: request.writesAside && !request.readOnly,
    partitions: [],
  };
}

/** @throws ImgfuseError missing, usage, busy, permission */
function assertDirectory(directory: string, isForAll: boolean): void {
  const kind = pathKind(directory);
  if (kind === 'missing') {
    const message = `the directory ${directory} does not exist; make it, or leave it out: imgfuse then makes one`;
    throw new ImgfuseError('missing', message, { path: directory });
  }
  if (!isForAll) assertMountpoint(directory);
  if (kind === 'directory') return;
  throw new ImgfuseError('usage', `${directory} is no directory, and the files of a guest need one`, {
    path: directory,
  });
}

/** Removes what a killed attach has left. @throws ImgfuseError busy if the image is attached, or another one in the directory */
async function clearTheWay(request: AttachRequest, tools: AttachTools): Promise<void> {
  const { image, directory, readOnly, writesAside } = request;
  const atDirectory = (each: Attachment): boolean => directory !== null && placesOf(each).includes(directory);
  for (const other of listAttachments().filter((each) => each.image === image || atDirectory(each))) {
    if (isLeftover(other)) {
      const closed = await detach(other, tools);
      tools.note(`what an attach that was cut short had left at ${other.directory} is removed`);
      for (const note of closed?.notes ?? []) tools.note(note);
      continue;
    }
    // programs that only read run side by side, each with an attachment of its own
    const isSideBySide = other.forProgram && other.readOnly && (readOnly || writesAside);
    if (isSideBySide && !atDirectory(other)) continue;
    throw new ImgfuseError('busy', describeOther(other), { path: image });
  }
}

function describeOther({ image, directory, state, forProgram, pid }: Attachment): string {
  if (state === 'attaching') return `${image} is being attached by process ${pid}`;
  const by = forProgram ? ` by process ${pid}, which runs a program there` : '';
  return `${image} is attached already at ${directory}${by}${forProgram ? '' : '; "imgfuse detach" takes it back'}`;
}

/** As mount(8) does, it falls back to read-only, unless the user has asked for rw. */
async function openImage(
  { disk, recordPath }: Attachment,
  request: AttachRequest,
  tools: AttachTools,
): Promise<ImageAccess> {
  const wanted = { readOnly: request.readOnly, share: false };
  try {
    await tools.openImage(disk, wanted);
    return wanted;
  } catch (error) {
    for (const fallback of fallbacksFor(error, request)) {
      tools.checkpoint();
      // an attach that began at the same moment was faster
      const other = listAttachments().find((each) => each.image === request.image && each.recordPath !== recordPath);
      if (isInUse(error) && other !== undefined) {
        throw new ImgfuseError('busy', describeOther(other), { path: request.image });
      }
      if (!(await opens(fallback, disk, tools))) continue;
      const { message } = error as ImgfuseError;
      const warning = fallback.share ? '; what is being written there now may look inconsistent' : '';
      tools.note(`${message.split(';')[0]}: it is attached read-only${warning}`);
      return fallback;
    }
    throw error;
  }
}

async function opens(access: ImageAccess, disk: string, tools: AttachTools): Promise<boolean> {
  try {
    await tools.openImage(disk, access);
    return true;
  } catch {
    return false;
  }
}

/** How to read an image that cannot be written, the best way first; none if the error says something else. */
function fallbacksFor(error: unknown, { readOnly, mayFallBack, writesAside }: AttachRequest): readonly ImageAccess[] {
  const unshared = { readOnly: true, share: false };
  if (!(error instanceof ImgfuseError) || writesAside) return [];
  if (isInUse(error)) {
    const shared = { readOnly: true, share: true };
    if (readOnly) return [shared];
    // others may only read it: then nothing is being written there, and nothing will be
    return mayFallBack ? [unshared, shared] : [];
  }
  const isUnwritable = error.kind === 'read-only' || error.kind === 'permission';
  return isUnwritable && mayFallBack && !readOnly ? [unshared] : [];
}

function isInUse(error: unknown): boolean {
  return error instanceof ImgfuseError && error.kind === 'busy' && error.context.operation === 'lock';
}

function placeFor(partition: GuestPartition, directory: string, choice: PartitionChoice): AttachedPartition {
  const { number, content } = partition;
  const isBelow = choice === 'all' && number !== null;
  return { number, type: content?.type ?? '', directory: isBelow ? `${directory}/p${number}` : directory };
}

/** Directories for several partitions are made below that of the user; those that are there already are used, and stay. */
function madeFor(
  places: readonly AttachedPartition[],
  { made, directory }: Attachment,
): Pick<AttachmentRecord, 'made' | 'partitions'> {
  const below = places.map((each) => each.directory).filter((each) => each !== directory);
  const missing = below.filter((each) => pathKind(each) === 'missing');
  for (const present of below) if (!missing.includes(present)) assertDirectory(present, false);
  return { made: [...made, ...missing], partitions: places };
}

interface How {
  readonly request: AttachRequest;
  readonly tools: AttachTools;
  readonly access: ImageAccess;
}

/** Of several, one that cannot be mounted here is left out, and said. @returns those that were left out */
async function mountAll(
  attachment: Attachment,
  chosen: readonly GuestPartition[],
  how: How,
): Promise<ReadonlySet<GuestPartition>> {
  const left = new Set<GuestPartition>();
  for (const [index, each] of chosen.entries()) {
    try {
      await mountOne(attachment, each, attachment.partitions[index]!.directory, how);
    } catch (error) {
      left.add(each);
      how.tools.checkpoint();
      if (!(error instanceof ImgfuseError) || how.request.choice !== 'all' || left.size === chosen.length) throw error;
      how.tools.note(`${nameOf(each)} is left out: ${error.message}`);
    }
    how.tools.checkpoint();
  }
  return left;
}

async function mountOne(attachment: Attachment, partition: GuestPartition, directory: string, how: How): Promise<void> {
  const { request, tools, access } = how;
  const content = partition.content!;
  const { number, start, size } = partition;
  const { type, uuid, needsRecovery } = content;
  const guest = { raw: attachment.raw, number, start, size, type, uuid, needsReplay: needsRecovery === true };
  const mounted = await mountGuest(guest, directory, {
    readOnly: access.readOnly,
    options: request.guestOptions,
    allowOther: request.allowOther,
    abort: tools.abort,
  });
  const what = `${nameOf(partition)} (${content.type})`;
  for (const sentence of remarks(what, mounted, access)) tools.note(sentence);
}

function remarks(what: string, { readOnly, journalLeft, served }: MountedGuest, access: ImageAccess): string[] {
  const sentences: string[] = [];
  if (journalLeft) {
    sentences.push(
      `${what} was not unmounted properly, and read-only its journal is not replayed: ` +
        'the newest changes may be missing; attach it without ro to have them replayed',
    );
  }
  if (readOnly && !access.readOnly) sentences.push(`${what} is mounted read-only`);
  if (served !== null) sentences.push(`${what} is ${served}`);
  return sentences;
}

async function takeBack(attachment: Attachment, tools: AttachTools): Promise<void> {
  try {
    const closed = await detach(attachment, tools);
    if (closed?.error !== undefined) tools.note(closed.error);
  } catch (error) {
    if (!(error instanceof ImgfuseError)) throw error;
    tools.note(`${error.message} ("imgfuse detach" tries it again)`);
  }
}
