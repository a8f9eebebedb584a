// `imgfuse check`: checks the metadata of an image and repairs it on request; output and exit code are those of qemu-img check.
// Invariant: without -r no byte of the image changes, and an interruption at any time does no harm.

import { printable } from '../../bytes/printable.ts';
import { type CheckReport, checkDisk, checkExitCode, limitedLog, type RepairMode } from '../../disk/index.ts';
import { EXIT_NO_CHECK, EXIT_USAGE } from '../../errors/exit-codes.ts';
import { ImgfuseError } from '../../errors/index.ts';
import { plural } from '../../errors/plural.ts';
import { type Command, QUIET } from '../command.ts';
import { ALLOW_BACKING, directories, FORCE_SHARE, FORMAT, IMAGE_NAME, lockMode, lookAt } from '../image-arguments.ts';
import { answered, complainAbout, type OutputMode, print, printJson } from '../output.ts';
import { Progress } from '../progress.ts';
import { NO_LOCK } from '../shared-options.ts';

interface CheckArguments {
  readonly image: string;
  readonly format?: string;
  readonly repair?: 'leaks' | 'all';
  readonly 'allow-backing'?: readonly string[];
  readonly 'force-share'?: boolean;
  readonly 'no-lock'?: boolean;
  readonly quiet?: boolean;
  readonly output: OutputMode;
}

export const checkCommand: Command = {
  name: 'check',
  summary: 'Check the metadata of an image, and repair it with -r',
  names: [IMAGE_NAME],
  options: {
    format: FORMAT,
    repair: {
      type: 'string',
      short: 'r',
      choices: ['leaks', 'all'],
      description: 'leaks: give back lost space; all: also repair corruptions, which may lose data',
    },
    'allow-backing': {
      ...ALLOW_BACKING,
      description:
        "a directory that other files of the image may lie in, beside the image's own, or such a file (repeatable)",
    },
    'force-share': FORCE_SHARE,
    'no-lock': NO_LOCK,
    quiet: { ...QUIET, description: 'print nothing but findings' },
  },
  excludes: [['repair', 'force-share']],
  examples: [
    ['imgfuse check disk.qed', ''],
    ['imgfuse check -r all disk.qed', 'repairs what it finds'],
  ],
  epilogue:
    'Exit status: 0 consistent, or repaired; 1 the check was not done; 2 corrupt; 3 lost space only; ' +
    '63 the format has no check.',
  run: check,
};

function check(args: CheckArguments): number {
  const progress = new Progress('checking');
  const findings: string[] = [];
  const note = limitedLog((finding) => findings.push(finding));
  const repair: RepairMode = args.repair ?? 'none';
  // -U is for checking only, not for repairing
  const run = repair === 'none' ? lookAt : <T>(work: () => T): T => work();
  try {
    const report = run(() =>
      checkDisk(args.image, {
        repair,
        allowBacking: directories(args['allow-backing']),
        locks: lockMode(args),
        ...(args.format === undefined ? {} : { format: args.format }),
        log: (finding) => {
          if (args.output === 'json') {
            note(finding);
            return;
          }
          progress.clear();
          print(printable(finding));
        },
        progress: (fraction) => progress.update(fraction),
      }),
    );
    progress.clear();
    if (args.output === 'json') printJson(checkJson(args.image, report, findings));
    else if (args.quiet !== true) print(checkText(report));
    return answered(checkExitCode(report));
  } catch (error) {
    progress.clear();
    complainAbout(error);
    return hasNoCheck(error) ? EXIT_NO_CHECK : EXIT_USAGE;
  }
}

/** Whether the error says that the format has no check, rather than that the image uses an unsupported feature. */
function hasNoCheck(error: unknown): boolean {
  return error instanceof ImgfuseError && error.kind === 'unsupported' && error.context.operation === 'check';
}

/** The keys of qemu-img check: corruptions and leaks are those that are left after the repair. */
export function checkJson(name: string, report: CheckReport, findings: readonly string[]): Record<string, unknown> {
  const orAbsent = (count: number): number | undefined => (count === 0 ? undefined : count);
  return {
    'image-end-offset': orAbsent(report.imageEndOffset),
    'total-clusters': report.totalClusters,
    'check-errors': report.checkErrors,
    'allocated-clusters': report.allocatedClusters,
    'fragmented-clusters': orAbsent(report.fragmentedClusters),
    'compressed-clusters': orAbsent(report.compressedClusters),
    corruptions: orAbsent(report.corruptions - report.corruptionsFixed),
    'corruptions-fixed': orAbsent(report.corruptionsFixed),
    leaks: orAbsent(report.leaks - report.leaksFixed),
    'leaks-fixed': orAbsent(report.leaksFixed),
    filename: name,
    format: report.format,
    findings: findings.length === 0 ? undefined : findings,
  };
}

export function checkText(report: CheckReport): string {
  const lines: string[] = [];
  if (report.corruptionsFixed + report.leaksFixed > 0) {
    lines.push(
      'The following inconsistencies were found and repaired:',
      '',
      `    ${report.leaksFixed} leaked clusters`,
      `    ${report.corruptionsFixed} corruptions`,
      '',
    );
  }
  const corruptions = report.corruptions - report.corruptionsFixed;
  const leaks = report.leaks - report.leaksFixed;
  if (corruptions + leaks + report.checkErrors === 0) lines.push('No errors were found on the image.');
  if (corruptions > 0) {
    const were = corruptions === 1 ? 'was' : 'were';
    lines.push(
      `${plural(corruptions, 'error')} ${were} found on the image.`,
      'Data may be corrupted, or further writes to the image may corrupt it.',
    );
  }
  if (leaks > 0) {
    const were = leaks === 1 ? 'was' : 'were';
    lines.push(
      `${plural(leaks, 'leaked cluster')} ${were} found on the image.`,
      'This means waste of disk space, but no harm to data.',
    );
  }
  if (report.checkErrors > 0) {
    lines.push(`${plural(report.checkErrors, 'place')} of the image could not be checked.`);
  }
  if (report.totalClusters > 0) {
    const { allocatedClusters: allocated, totalClusters: total, fragmentedClusters: fragmented } = report;
    const share = (part: number, whole: number): string => (whole === 0 ? 0 : (part / whole) * 100).toFixed(2);
    lines.push(
      `${allocated}/${total} = ${share(allocated, total)}% allocated, ${share(fragmented, allocated)}% fragmented, ` +
        `${share(report.compressedClusters, allocated)}% compressed clusters`,
    );
  }
  if (report.imageEndOffset > 0) lines.push(`Image end offset: ${report.imageEndOffset}`);
  return lines.join('\n');
}
