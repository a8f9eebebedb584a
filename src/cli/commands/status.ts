// `imgfuse status`: every mount, from the records, the mount table and the mount processes themselves.
// Invariant: it shows a mount without a process together with what to do, and never asks or changes it. It only removes records
// that have neither a process nor a mount.

import { formatSize } from '../../bytes/format-size.ts';
import { shellQuote } from '../../bytes/printable.ts';
import { ControlClient } from '../../daemon/control-socket.ts';
import type { ContentStatus, PartitionStatus } from '../../daemon/inspection/guest-status.ts';
import type { SnapshotStatus } from '../../daemon/inspection/snapshot-status.ts';
import type { MountStatus } from '../../daemon/mount-status.ts';
import type { OverlayReport } from '../../daemon/overlay-report.ts';
import { POSSIBLY_INCONSISTENT, sentenceOfWaiting } from '../../daemon/status-sentences.ts';
import type { NetworkStatus } from '../../disk/index.ts';
import { EXIT_OK, EXIT_USAGE } from '../../errors/exit-codes.ts';
import { listAttachments } from '../../guest/attachments.ts';
import { canonicalEntry, canonicalPath } from '../../host/canonical-path.ts';
import { removeLeftovers } from '../../mounts/leftovers.ts';
import { commandThere, describePlace, placeElsewhere } from '../../mounts/namespaces.ts';
import { ownUid } from '../../mounts/runtime-directory.ts';
import { listTargets, type Target } from '../../mounts/target.ts';
import type { Command } from '../command.ts';
import { answered, complain, formatTable, type OutputMode, print, printJson } from '../output.ts';
import { localDate } from './info-snapshots.ts';

/**
 * opening: nothing is mounted yet; mounted: serving; elsewhere: serving in another mount namespace; closing: unmounted, the image
 * is being closed; dead: its process is gone; unknown: this user may not ask it.
 */
type State = 'opening' | 'mounted' | 'elsewhere' | 'closing' | 'dead' | 'unknown';

type Report = Partial<Omit<MountStatus, 'mountpoint'>> & {
  readonly mountpoint: string;
  readonly state: State;
  /** the current step of an open */
  readonly doing?: string;
  readonly cure?: string;
  /** for a mount of another user: who may use it */
  readonly access?: string;
  /** for a mount in another mount namespace: where it is, and how to unmount it there */
  readonly namespace?: string;
  /** for a mount that was made by attach: where the guest's files are */
  readonly attached?: readonly string[];
};

interface StatusArguments {
  readonly mountpoint?: string;
  readonly output: OutputMode;
}

export const statusCommand: Command = {
  name: 'status',
  summary: 'Show mounts: image, format, process, dirty bit, requests',
  names: [{ name: 'mountpoint', description: 'only this mountpoint or image, with more detail', optional: true }],
  options: {},
  examples: [
    ['imgfuse status', 'a table of every mount'],
    ['imgfuse status --output=json /mnt/img', ''],
  ],
  run: status,
};

async function status(args: StatusArguments): Promise<number> {
  removeLeftovers();
  const wanted = args.mountpoint;
  const names = wanted === undefined ? [] : [canonicalEntry(wanted), canonicalPath(wanted)];
  const targets = listTargets();
  const isBrief = wanted !== undefined || args.output === 'human';
  const all = await Promise.all(targets.map((target) => report(target, isBrief)));
  // of those that are named the partitions, too
  const named = targets.filter((_target, index) => isNamed(all[index]!, names));
  const reports = wanted === undefined ? all : await Promise.all(named.map((target) => report(target, false)));
  if (wanted !== undefined && reports.length === 0) {
    complain(`${wanted} is not mounted by imgfuse; "imgfuse status" lists what is`);
    return EXIT_USAGE;
  }
  if (args.output === 'json') printJson(reports);
  else if (wanted !== undefined) print(reports.map(detailText).join('\n\n'));
  else if (reports.length === 0) print('nothing is mounted');
  else print(statusTable(reports));
  if (args.output === 'human') for (const each of reports) if (each.cure !== undefined) complain(each.cure);
  return answered(EXIT_OK);
}

function isNamed(report: Report, names: readonly string[]): boolean {
  const { image, mountpoint, overlay } = report;
  return [mountpoint, image, overlay?.filename].some((name) => typeof name === 'string' && names.includes(name));
}

/** @param isBrief without partitions, which take time to find out */
async function report({ mountpoint, mount, record }: Target, isBrief: boolean): Promise<Report> {
  const image = record?.image ?? mount?.source ?? '?';
  const access = mount === null ? null : accessOf(mount);
  const place = { mountpoint, image, ...(access === null ? {} : { access }) };
  if (record === null) return { ...place, 'read-only': mount?.readOnly ?? false, state: 'unknown' };
  const known = {
    ...place,
    format: record.format,
    transport: record.transport,
    pid: record.pid,
    workers: record.workers,
    'read-only': record.readOnly,
    log: record.log,
    ...attachedAt(mountpoint),
  };
  if (!record.alive) {
    const { left, pid } = record;
    const why = left === undefined ? `its process ${pid} ended without closing ${image}` : left.reason;
    const closed = left?.clean === true ? `; ${image} is closed and clean` : '';
    const cure = `${mountpoint} is dead, ${why}${closed}; "imgfuse unmount ${shellQuote(mountpoint)}" removes it and says how to go on`;
    return { ...known, state: 'dead', cure };
  }
  const client = await ControlClient.connect(record.socketPath);
  const answer = (await client?.status(isBrief)) ?? null;
  client?.close();
  const other = mount === null && !record.opening ? placeElsewhere({ mountpoint, mount, record }) : null;
  const state = record.opening ? 'opening' : mount !== null ? 'mounted' : other === null ? 'closing' : 'elsewhere';
  const namespace = other === null ? {} : { namespace: `${describePlace(other)}; unmount: ${commandThere(other)}` };
  return { ...known, ...((answer ?? {}) as Partial<MountStatus>), mountpoint, state, ...namespace };
}

/** Where the guest's files are, if `attach` has made the mount. */
function attachedAt(mountpoint: string): { readonly attached?: readonly string[] } {
  const attachment = listAttachments().find(({ disk }) => disk === mountpoint);
  return attachment === undefined ? {} : { attached: attachment.partitions.map(({ directory }) => directory) };
}

/** Why this user, even root for a loop device, may not read a mount of another user; null if reading is allowed. */
function accessOf({ options }: NonNullable<Target['mount']>): string | null {
  const user = options.find((option) => option.startsWith('user_id='))?.slice('user_id='.length);
  if (user === undefined || user === String(ownUid()) || options.includes('allow_other')) return null;
  return `by user ${user} alone: losetup and mount as another user, root included, need a mount with -o allow_other`;
}

export function statusTable(reports: readonly Report[]): string {
  const heading = ['MOUNTPOINT', 'IMAGE', 'FORMAT', 'STATE', 'MODE', 'DIRTY', 'SIZE', 'ALLOCATED', 'WORKERS', 'PID'];
  const rows = reports.map((each) => [
    each.mountpoint,
    each.image ?? '?',
    each.format ?? '?',
    stateText(each),
    `${each['read-only'] === true ? 'ro' : 'rw'}${each.shared === true ? ',share' : ''}`,
    each['dirty-flag'] === undefined ? '?' : each['dirty-flag'] ? 'yes' : 'no',
    size(each['virtual-size']),
    size(each['allocated-size']),
    String(each.workers ?? '?'),
    String(each.pid ?? '?'),
  ]);
  return formatTable([heading, ...rows]);
}

function stateText({ failure, state, 'waiting-for-space': waiting }: Report): string {
  if (failure !== undefined && failure !== null) return 'failed';
  return waiting === undefined ? state : 'waiting';
}

function size(bytes: number | undefined): string {
  return bytes === undefined ? '?' : formatSize(bytes);
}

/** How much of the disk is in the image, and how much still comes from the backing file. */
function localText(each: Report): string | undefined {
  const { 'local-size': local, 'backing-size': below, 'virtual-size': all } = each;
  if (local === undefined || below === undefined || all === undefined) return undefined;
  const percent = all === 0 ? 100 : Math.floor((local / all) * 100);
  return `${formatSize(local)} (${percent}%), ${formatSize(below)} from the backing file`;
}

function overlayText({ filename, 'allocated-size': bytes }: OverlayReport): string {
  const size = bytes === undefined ? 'changes' : `${formatSize(bytes)} of changes`;
  return filename === null ? `a temporary file with ${size}, gone at the unmount` : `${filename} with ${size}`;
}

function networkRow({ url, requests, bytes, retries, failures }: NetworkStatus): [string, string] {
  return ['network', `${url}: ${formatSize(bytes)} in ${requests} requests, ${retries} retries, ${failures} failures`];
}

function detailText(each: Report): string {
  const requests = Object.entries(each.requests ?? {}).map(([name, count]) => `${name} ${count}`);
  const rows: [string, string | number | null | undefined][] = [
    ['mountpoint', each.mountpoint],
    ['image', each.image],
    ['overlay', each.overlay === undefined ? undefined : overlayText(each.overlay)],
    ['state', each.doing === undefined ? each.state : `${each.state}: ${each.doing}`],
    ['mounted', each.namespace],
    ['usable', each.access],
    ['format', each.format],
    ['backing chain', each['backing-chain']?.join(' <- ')],
    ['mode', each['read-only'] === true ? 'read-only' : 'read-write'],
    ['lazy refcounts', each['lazy-refcounts'] === true ? 'yes' : undefined],
    ['consistency', each.shared === true ? POSSIBLY_INCONSISTENT : undefined],
    ['dirty', each['dirty-flag'] === undefined ? undefined : each['dirty-flag'] ? 'yes' : 'no'],
    ['shows', each.partition === undefined ? undefined : `partition ${each.partition}`],
    ['virtual size', each['virtual-size'] && `${formatSize(each['virtual-size'])} (${each['virtual-size']} bytes)`],
    ['allocated', each['allocated-size'] === undefined ? undefined : formatSize(each['allocated-size'])],
    ['copy on read', each['copy-on-read']],
    ['local', localText(each)],
    ['cluster size', each['cluster-size']],
    ['transport', each.transport],
    ['workers', each.workers],
    ['process', each.pid],
    ['attached', each.attached?.join(', ')],
    ['log', each.log],
    ...(each.network ?? []).map(networkRow),
    ['full host', each['waiting-for-space'] === undefined ? undefined : sentenceOfWaiting(each['waiting-for-space'])],
    ['requests', requests.length === 0 ? undefined : requests.join(', ')],
    ['failure', each.failure],
    ['partition table', tableText(each)],
    ...(each.table?.warnings ?? []).map((sentence): [string, string] => ['', sentence]),
  ];
  const details = formatTable(
    rows
      .filter(([, value]) => value !== undefined && value !== null)
      .map(([key, value]) => [key && `${key}:`, String(value)]),
  );
  const { partitions = [], snapshots = [], 'more-snapshots': more } = each;
  return [
    details,
    ...(partitions.length === 0 ? [] : [partitionTable(partitions)]),
    ...(snapshots.length === 0 ? [] : [snapshotTable(snapshots)]),
    ...(more === undefined ? [] : [`and ${more} more snapshots`]),
  ].join('\n\n');
}

function tableText({ table, content }: Report): string | undefined {
  if (table === undefined) return undefined;
  if (table.scheme !== null) return `${table.scheme}, sectors of ${table['sector-size']} bytes`;
  return content === undefined || content === null ? 'none' : `none; the disk contains ${contentText(content)}`;
}

function partitionTable(partitions: readonly PartitionStatus[]): string {
  const heading = ['PARTITION', 'START', 'SIZE', 'TYPE', 'NAME', 'CONTENT'];
  const rows = partitions.map(({ number, start, size: bytes, type, 'type-name': typeName, name, content }) => [
    ...[`${number}.raw`, String(start), formatSize(bytes), typeName ?? type, name ?? ''],
    content === null ? '' : contentText(content),
  ]);
  return formatTable([heading, ...rows]);
}

function snapshotTable(snapshots: readonly SnapshotStatus[]): string {
  const heading = ['SNAPSHOT', 'ID', 'SIZE', 'DATE', 'NAME'];
  const rows = snapshots.map(({ file, id, name, 'virtual-size': bytes, 'date-sec': seconds }) => [
    ...[file ?? '', id, formatSize(bytes), localDate(seconds)],
    file === `${name}.raw` ? '' : name,
  ]);
  return formatTable([heading, ...rows]);
}

function contentText({ type, label }: ContentStatus): string {
  return label === null ? type : `${type} "${label}"`;
}
