// `imgfuse create`: makes a new image, with the arguments of qemu-img create.

import { printable } from '../../bytes/printable.ts';
import { createDisk, formatByName, formats, inspectDisk, parseSize } from '../../disk/index.ts';
import { ImgfuseError } from '../../errors/index.ts';
import { newPasswordOf, type PasswordArguments } from '../../host/passwords.ts';
import { type Command, QUIET } from '../command.ts';
import { FORMAT } from '../image-arguments.ts';
import { splitOptions } from '../mount-options.ts';
import { complain, type OutputMode, print, printJson } from '../output.ts';
import { KEY_EXCLUDES, KEY_OPTIONS } from '../shared-options.ts';
import { helpWidth, layOut } from '../text-layout.ts';

interface CreateArguments extends PasswordArguments {
  readonly image: string;
  readonly size?: string;
  readonly format: string;
  readonly options?: readonly string[];
  readonly backing?: string;
  readonly 'backing-format'?: string;
  readonly output: OutputMode;
  readonly quiet?: boolean;
}

const OPTIONS_HELP = 'help';

/** Formats with a create function. */
const MADE = formats.flatMap(({ name, createHelp }) => (createHelp === undefined ? [] : [{ name, createHelp }]));

export const createCommand: Command = {
  name: 'create',
  summary: 'Create an empty image, or an overlay on a backing file',
  names: [
    { name: 'image', description: 'the file to make' },
    {
      name: 'size',
      description: 'size of the disk: bytes, or with k, M, G, T, P, E; with -b that of the backing file',
      optional: true,
    },
  ],
  options: {
    format: {
      ...FORMAT,
      choices: MADE.map(({ name }) => name),
      required: true,
      description: 'image format',
    },
    options: {
      type: 'string',
      short: 'o',
      multiple: true,
      mayBeEmpty: true,
      asks: OPTIONS_HELP,
      placeholder: 'k=v,...',
      description:
        'format options k=v,...; "-o help" lists those of -f FORMAT. All formats: copy_on_read=on|off, the default of its mounts',
    },
    backing: { type: 'string', short: 'b', placeholder: 'BACKING', description: 'backing file' },
    'backing-format': { ...FORMAT, short: 'F', description: 'its format (needed with -b)' },
    ...KEY_OPTIONS,
    quiet: QUIET,
  },
  excludes: KEY_EXCLUDES,
  examples: MADE.flatMap(({ name, createHelp }) =>
    createHelp.examples.map(([line, text]) => [`imgfuse create -f ${name} ${line}`, text] as const),
  ),
  run: create,
};

function create(args: CreateArguments): number {
  if (args.options?.includes(OPTIONS_HELP) === true) return explainOptions(args);
  const options = parseFormatOptions(args.options ?? []);
  const sizeOption = options.get('size');
  options.delete('size');
  const backing = args.backing ?? take(options, 'backing_file');
  const backingFormat = args['backing-format'] ?? take(options, 'backing_fmt');
  if (args.size !== undefined && sizeOption !== undefined) {
    throw new ImgfuseError('usage', `the size is given twice, as ${args.size} and as -o size=${sizeOption}`);
  }
  const size = args.size ?? sizeOption;
  const copyOnRead = onOrOff('copy_on_read', take(options, 'copy_on_read'));
  if (backing === undefined && backingFormat !== undefined) {
    throw new ImgfuseError('usage', '-F names the format of a backing file, but there is no -b');
  }
  if (backing !== undefined && backingFormat === undefined) {
    throw new ImgfuseError(
      'usage',
      `-b ${backing} needs -F and its format: guessing it from the content would let a guest choose what host file is read`,
    );
  }
  if (size === undefined && backing === undefined) {
    throw new ImgfuseError(
      'usage',
      `${args.image} needs a size, such as: imgfuse create -f ${args.format} ${args.image} 10G`,
    );
  }
  createDisk(args.image, args.format, {
    options,
    password: newPasswordOf(args, args.image),
    log: complain,
    ...(size === undefined ? {} : { size: parseSize(size) }),
    ...(copyOnRead === undefined ? {} : { copyOnRead }),
    ...(backing === undefined ? {} : { backing }),
    ...(backingFormat === undefined ? {} : { backingFormat }),
  });
  if (args.quiet !== true) report(args, options);
  return 0;
}

/** The keys of `-o`, as qemu-img lists them. */
function explainOptions({ format, output }: CreateArguments): number {
  const options = formatByName(format).createHelp?.options ?? [];
  const rows = options.map(({ key, value, text }) => [`${key}=${value}`, text] as const);
  if (output === 'json') printJson({ format, options });
  else print(`Options of ${format} images (-o):\n${layOut(rows, helpWidth())}`);
  return 0;
}

function report(args: CreateArguments, options: ReadonlyMap<string, string>): void {
  const info = inspectDisk(args.image, {});
  const entries: [string, string | number | undefined][] = [
    ['fmt', info.format],
    ['size', info.virtualSize],
    ['backing_file', info.backingFilename],
    ['backing_fmt', info.backingFormat],
    ['cluster_size', info.clusterSize ?? undefined],
    ...[...options].filter(([key]) => key !== 'cluster_size'),
  ];
  const facts = entries.filter(([, value]) => value !== undefined);
  if (args.output === 'json') {
    printJson({
      filename: args.image,
      format: info.format,
      'virtual-size': info.virtualSize,
      'cluster-size': info.clusterSize ?? undefined,
      'backing-filename': info.backingFilename,
    });
  } else {
    print(printable(`Formatting '${args.image}', ${facts.map(([key, value]) => `${key}=${value}`).join(' ')}`));
  }
}

function onOrOff(key: string, value: string | undefined): boolean | undefined {
  if (value === undefined) return undefined;
  if (value === 'on' || value === 'off') return value === 'on';
  throw new ImgfuseError('usage', `${key}=${value} is not valid; use on or off`);
}

function take(options: Map<string, string>, key: string): string | undefined {
  const value = options.get(key);
  options.delete(key);
  return value;
}

/** "-o a=1,b=2". A comma in a value is doubled, as in qemu-img, or follows a backslash. */
export function parseFormatOptions(lists: readonly string[]): Map<string, string> {
  const options = new Map<string, string>();
  for (const item of lists.flatMap((list) => splitOptions(list.replaceAll(',,', '\\,')))) {
    const equals = item.indexOf('=');
    if (equals < 1)
      throw new ImgfuseError('usage', `-o ${item} is not of the form key=value, such as -o cluster_size=64k`);
    options.set(item.slice(0, equals), item.slice(equals + 1));
  }
  return options;
}
