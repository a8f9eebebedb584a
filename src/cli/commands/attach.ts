// `imgfuse attach`: the guest's files in one step; with a program after "--" it runs that there, and detaches when it ends.
// Invariant: no signal that can be caught leaves anything behind, and exit code 0 means that the files are there, or that the
// program has succeeded and the image is closed clean.

import { formatSize } from '../../bytes/format-size.ts';
import { printable } from '../../bytes/printable.ts';
import { EXIT_MOUNT, EXIT_OK, mountExitCode } from '../../errors/exit-codes.ts';
import { describeError, ImgfuseError } from '../../errors/index.ts';
import { type AttachRequest, type AttachTools, attach } from '../../guest/attach.ts';
import type { Attachment } from '../../guest/attachments.ts';
import { type GuestPartition, type PartitionChoice, PartitionChoiceError } from '../../guest/choose-partition.ts';
import { detach } from '../../guest/detach.ts';
import { loopDevicesOf } from '../../guest/guest-mounts.ts';
import { canonicalEntry, canonicalPath } from '../../host/canonical-path.ts';
import { joinOptions, parseAttachOptions } from '../attach-options.ts';
import { closeImage, openImage } from '../attached-image.ts';
import type { Command } from '../command.ts';
import { runGuestProgram } from '../guest-program.ts';
import { Interrupted, Interruption } from '../interruption.ts';
import { MOUNT_ARGUMENTS, type ParsedMountArguments } from '../mount-arguments.ts';
import { complain, complainAbout, formatTable, type OutputMode, print, printError, printJson } from '../output.ts';

type AttachArguments = Omit<ParsedMountArguments, 'mountpoint' | 'output'> & {
  readonly directory?: string;
  readonly partition?: string;
  readonly program?: readonly string[];
  readonly output: OutputMode;
};

const { options, format, workers } = MOUNT_ARGUMENTS;

export const attachCommand: Command = {
  name: 'attach',
  summary: 'Mount the files of a guest; with "-- COMMAND": run it there, then detach',
  names: [
    { name: 'image', description: 'the disk image' },
    {
      name: 'directory',
      description: 'where the files appear; without it a directory is made, and printed',
      optional: true,
    },
  ],
  options: {
    partition: {
      type: 'string',
      placeholder: 'N',
      description:
        'its number, or disk: the whole disk; auto (the default): the only one with a file system; all: each in DIRECTORY/pN',
    },
    options: {
      ...options,
      description: 'mount options, separated by commas: those of "imgfuse mount", and any of the guest\'s file system',
    },
    'read-only': MOUNT_ARGUMENTS['read-only'],
    'read-write': { ...MOUNT_ARGUMENTS['read-write'], description: 'the same as -o rw: fail rather than be read-only' },
    format,
    workers,
    'allow-backing': MOUNT_ARGUMENTS['allow-backing'],
    'key-file': MOUNT_ARGUMENTS['key-file'],
    'key-env': MOUNT_ARGUMENTS['key-env'],
    'no-lock': MOUNT_ARGUMENTS['no-lock'],
  },
  excludes: [['key-file', 'key-env']],
  runsProgram: true,
  examples: [
    ['imgfuse attach disk.qcow2 /mnt/guest', 'the files of its one file system'],
    ['imgfuse attach -r disk.qcow2 /mnt/guest --partition 2', 'read-only; not even a journal is replayed'],
    ['imgfuse attach disk.qcow2 -- sh', 'a shell in them; its end closes the image'],
  ],
  epilogue: [
    'The program finds its directory in IMGFUSE_DIR, and the disk as a raw file in IMGFUSE_DISK; it starts in the directory.',
    'The mount is nosuid and nodev, unless -o suid,dev says otherwise.',
    'Exit status: 0 attached; 1 usage or permission, or a partition must be chosen; 2 system error; 32 failed. With a COMMAND:',
    'that of the command (126, 127: it cannot be run; 128 + N: signal N), or 32 if the image is not closed clean afterwards.',
  ].join('\n'),
  run: attachImage,
};

async function attachImage(args: AttachArguments): Promise<number> {
  const interruption = new Interruption();
  try {
    const request = attachRequest(args);
    const tools = toolsFor(args, interruption);
    const attachment = await attach(request, tools);
    if (args.program !== undefined) return await runThere(args.program, attachment, { tools, interruption });
    if (args.output === 'json') printJson(attachmentJson(attachment));
    else for (const line of attachmentLines(attachment)) print(line);
    return EXIT_OK;
  } catch (error) {
    if (error instanceof Interrupted) {
      complain(error.message);
      return error.exitCode;
    }
    return explain(error, args);
  } finally {
    interruption.release();
  }
}

function explain(error: unknown, { image, output }: AttachArguments): number {
  const partitions = error instanceof PartitionChoiceError ? error.partitions : null;
  if (output === 'json' && error instanceof ImgfuseError) {
    const list = partitions === null ? {} : { partitions: partitions.map(partitionJson) };
    printJson({ image: canonicalPath(image), error: describeError(error), ...list });
  } else if (partitions !== null && partitions.length > 1) {
    printError(`${partitionTable(partitions)}\n`);
  }
  complainAbout(error);
  return mountExitCode(error);
}

function attachRequest(args: AttachArguments): AttachRequest {
  const parsed = parseAttachOptions(args.options ?? []);
  return {
    image: canonicalPath(args.image),
    directory: args.directory === undefined ? null : canonicalEntry(args.directory),
    choice: partitionChoice(args.partition ?? 'auto'),
    readOnly: parsed.readOnly,
    mayFallBack: !parsed.mustWrite,
    writesAside: parsed.writesAside,
    guestOptions: parsed.guest,
    allowOther: parsed.allowOther,
    forProgram: args.program !== undefined,
  };
}

function partitionChoice(text: string): PartitionChoice {
  if (text === 'auto' || text === 'all' || text === 'disk') return text;
  const number = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  if (number > 0) return number;
  throw new ImgfuseError('usage', `"${text}" is no partition; give its number, disk, auto or all`);
}

function toolsFor(args: AttachArguments, interruption: Interruption): AttachTools {
  const { image } = parseAttachOptions(args.options ?? []);
  return {
    openImage: async (mountpoint, { readOnly, share }) => {
      const access = [...(readOnly ? ['ro'] : []), ...(share ? ['share'] : [])];
      try {
        await openImage({ ...args, mountpoint, options: [joinOptions([...image, ...access])] });
      } catch (error) {
        // the mount process was told to end as well
        interruption.checkpoint();
        throw error;
      }
    },
    closeImage,
    note: complain,
    abort: interruption.abort,
    checkpoint: () => interruption.checkpoint(),
  };
}

async function runThere(
  program: readonly string[],
  attachment: Attachment,
  { tools, interruption }: { readonly tools: AttachTools; readonly interruption: Interruption },
): Promise<number> {
  const exitCode = await runGuestProgram(program, attachment, interruption);
  try {
    const closed = await detach(attachment, tools);
    if (closed?.clean === true) return exitCode;
    complain(closed?.error ?? `${attachment.image} was not closed clean: somebody else has unmounted it`);
    for (const each of closed?.notes ?? []) complain(each);
  } catch (error) {
    if (!(error instanceof ImgfuseError)) throw error;
    complain(`the program has ended (exit code ${exitCode}), but ${describeError(error)}`);
  }
  return EXIT_MOUNT;
}

function attachmentJson(attachment: Attachment): object {
  const { image, directory, disk, raw, readOnly, writesAside, partitions } = attachment;
  const devices = loopDevicesOf(attachment);
  return {
    image,
    directory,
    'read-only': readOnly && writesAside !== true,
    mountpoint: disk,
    disk: raw,
    partitions: partitions.map((each) => ({ ...each, device: devices.get(each.directory) ?? null })),
  };
}

function attachmentLines({ image, partitions, readOnly, writesAside }: Attachment): string[] {
  const access = writesAside === true ? ', changes go beside the image' : readOnly ? ', read-only' : '';
  return partitions.map(({ number, type, directory }) => {
    const what = number === null ? type : `partition ${number}, ${type}`;
    return printable(`${image} (${what}${access}) is attached at ${directory}`);
  });
}

function partitionTable(partitions: readonly GuestPartition[]): string {
  const rows = partitions.map(({ number, size, use, content }) => [
    number === null ? 'disk' : String(number),
    formatSize(size),
    use,
    content?.type ?? '-',
    content?.label ?? '',
  ]);
  return formatTable([['PARTITION', 'SIZE', 'TYPE', 'CONTENT', 'LABEL'], ...rows]);
}

function partitionJson({ number, start, size, use, content }: GuestPartition): object {
  return { number, start, size, type: use, content: content?.type ?? null, label: content?.label ?? null };
}
