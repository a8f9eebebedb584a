// Which of a disk's partitions is attached: the one that the user names, or the only one with a file system. What cannot be mounted
// as it is, such as LVM or an encrypted partition, is named with the commands that open it; nothing of it is ever started here.

import { shellQuote } from '../bytes/printable.ts';
import { ImgfuseError } from '../errors/index.ts';
import type { Content } from './partitions/index.ts';

/** A place on the disk where a file system may be: a partition, or a whole disk without a table. */
export interface GuestPartition {
  /** null: the whole disk */
  readonly number: number | null;
  /** bytes */
  readonly start: number;
  readonly size: number;
  /** the type in the partition table, in words */
  readonly use: string;
  /** it belongs to the firmware of the machine, which starts the system from it */
  readonly isFirmware: boolean;
  readonly content: Content | null;
}

/** What the user asks for. */
export type PartitionChoice = number | 'disk' | 'auto' | 'all';

/** No partition was chosen, or a wrong one; the command shows which there are. */
export class PartitionChoiceError extends ImgfuseError {
  readonly partitions: readonly GuestPartition[];

  constructor(message: string, partitions: readonly GuestPartition[], path: string) {
    super('usage', message, { path });
    this.partitions = partitions;
  }
}

/** @throws PartitionChoiceError which there are, and what to do */
export function choosePartitions(
  image: string,
  all: readonly GuestPartition[],
  choice: PartitionChoice,
): readonly GuestPartition[] {
  if (typeof choice === 'number' || choice === 'disk') return [named(image, all, choice)];
  const beside = all.length > 1 ? all.find(({ number }) => number === null) : undefined;
  const inPartitions = all.filter((each) => each !== beside && isMountable(each));
  const takesDisk = beside !== undefined && isDisc(beside) && (choice === 'auto' || inPartitions.length === 0);
  const mountable = takesDisk ? [beside, ...inPartitions] : inPartitions;
  if (mountable.length === 0 && beside !== undefined && isMountable(beside)) throw perhapsOld(image, all, beside);
  if (mountable.length === 0) throw nothingToMount(image, all);
  if (choice === 'all' || mountable.length === 1) return mountable;
  // the partition of the firmware is none that somebody looks for, unless it is the only one
  const wanted = mountable.filter(({ isFirmware }) => !isFirmware);
  if (wanted.length === 1) return wanted;
  const message = `${image} has ${mountable.length} file systems; choose one with --partition N, or all with --partition all`;
  throw new PartitionChoiceError(message, all, image);
}

function isMountable({ content }: GuestPartition): boolean {
  return content?.use === 'filesystem';
}

/** A CD or DVD has its file system beside a table; any other is more likely what a disk held before it was partitioned. */
function isDisc({ content }: GuestPartition): boolean {
  return content?.type === 'iso9660' || content?.type === 'udf';
}

function perhapsOld(image: string, all: readonly GuestPartition[], { content }: GuestPartition): PartitionChoiceError {
  const message =
    `${image} has no file system in its partitions; its whole disk holds ${content!.type}, perhaps from before it was ` +
    'partitioned, and then writing to it destroys the partitions; --partition disk attaches it, with -r it is only read';
  return new PartitionChoiceError(message, all, image);
}

function named(image: string, all: readonly GuestPartition[], choice: number | 'disk'): GuestPartition {
  const number = choice === 'disk' ? null : choice;
  const found = all.find((each) => each.number === number);
  if (found === undefined) {
    if (number === null)
      throw new PartitionChoiceError(`${image} has no file system beside its partitions`, all, image);
    const numbers = all.map((each) => each.number).filter((each) => each !== null);
    const which = numbers.length === 0 ? 'it has no partitions; leave --partition out' : `it has ${numbers.join(', ')}`;
    throw new PartitionChoiceError(`${image} has no partition ${number}: ${which}`, all, image);
  }
  if (isMountable(found)) return found;
  throw new PartitionChoiceError(`${nameOf(found)} of ${image} ${describeContent(image, found)}`, all, image);
}

function nothingToMount(image: string, all: readonly GuestPartition[]): PartitionChoiceError {
  const known = all.filter(({ content }) => content !== null);
  if (all.length === 0) return new PartitionChoiceError(`the partition table of ${image} is empty`, all, image);
  if (known.length === 0) {
    const what =
      all[0]!.number === null ? 'neither a partition table nor a file system' : 'no file system in its partitions';
    return new PartitionChoiceError(`${image} has ${what} that is known here`, all, image);
  }
  const parts = known.map((each) => `${nameOf(each)} ${describeContent(image, each)}`);
  return new PartitionChoiceError(
    `${image} has no file system that can be mounted as it is: ${parts.join('; ')}`,
    all,
    image,
  );
}

/** "partition 2", or "the disk" */
export function nameOf({ number }: Pick<GuestPartition, 'number'>): string {
  return number === null ? 'the disk' : `partition ${number}`;
}

/** What stays closed beside the partitions that were chosen without the user's word. */
export function closedBeside(all: readonly GuestPartition[], chosen: readonly GuestPartition[]): string[] {
  return all
    .filter((each) => !chosen.includes(each) && each.content?.use === 'container')
    .map((each) => {
      const title = containerOf(each)?.title ?? `holds ${each.content!.type}`;
      return `${nameOf(each)} ${title} and stays closed; "imgfuse attach --partition ${each.number ?? 'disk'}" says how to open it`;
    });
}

interface Container {
  readonly title: string;
  /** commands after `$DEVICE` is there */
  readonly open: readonly string[];
}

/** What is no file system, by its name in blkid. */
const CONTAINERS: Readonly<Record<string, Container>> = {
  LVM2_member: {
    title: 'is a physical volume of LVM',
    open: ['vgimportclone --import --basevgname guest $DEVICE', 'vgchange -ay guest', 'mount /dev/guest/LV DIR'],
  },
  crypto_LUKS: {
    title: 'is encrypted with LUKS',
    open: ['cryptsetup open $DEVICE guest', 'mount /dev/mapper/guest DIR'],
  },
  BitLocker: {
    title: 'is encrypted with BitLocker',
    open: ['cryptsetup open --type bitlk $DEVICE guest', 'mount /dev/mapper/guest DIR'],
  },
  zfs_member: {
    title: 'belongs to a ZFS pool',
    open: ['zpool import -d $DEVICE -R DIR -N POOL', 'zfs mount POOL/DATASET'],
  },
  linux_raid_member: {
    title: 'is a member of a Linux software RAID',
    open: ['mdadm --assemble --run /dev/md/guest $DEVICE', 'mount /dev/md/guest DIR'],
  },
};

function containerOf({ content }: Pick<GuestPartition, 'content'>): Container | undefined {
  return content !== null && Object.hasOwn(CONTAINERS, content.type) ? CONTAINERS[content.type] : undefined;
}

/** "is encrypted with LUKS; it is opened with ...": why it cannot be mounted, and the commands that open it. */
export function describeContent(image: string, { start, size, content }: GuestPartition): string {
  if (content === null) return 'holds nothing that is known here';
  const container = containerOf({ content });
  if (content.type === 'swap') return 'is swap space, which has no files';
  if (container === undefined) return `holds ${content.type}, which cannot be mounted`;
  const commands = [
    `imgfuse mount ${shellQuote(image)} IMG`,
    `losetup --find --show --offset ${start} --sizelimit ${size} IMG/disk.raw`,
    ...container.open,
  ].map((command) => command.replace('$DEVICE', '/dev/loopN'));
  return `${container.title}; it is opened with: ${commands.join('; ')}`;
}
