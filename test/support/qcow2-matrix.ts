// The kinds of qcow2 image that QEMU makes, as a table: version, cluster size, width of reference counts, and one feature
// more. Each row can be made by qemu-img and qemu-io, with content that no feature leaves as it was.

import { execFile } from 'node:child_process';
import { copyFile, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { seededRandom } from './random.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from './temporary.ts';

const run = promisify(execFile);
const TIMEOUT_MS = 60_000;
const MIB = 1024 * 1024;

export const FEATURES = [
  'plain',
  'backing',
  'zlib',
  'zstd',
  'extended L2',
  'data file',
  'raw data file',
  'luks',
  'aes',
  'snapshots',
  'luks over an encrypted backing file, with snapshots',
  'extended L2 over a backing file, zstd, with snapshots',
  'extended L2 in a data file',
] as const;
export type Feature = (typeof FEATURES)[number];
/** Several at once, with one width of reference counts. */
const COMBINED: readonly Feature[] = FEATURES.slice(-3);

export interface Row {
  readonly version: 2 | 3;
  readonly clusterSize: keyof typeof DISK_BYTES;
  readonly refcountBits: number;
  readonly feature: Feature;
}

/** Enough clusters of each size to cross what can be crossed; the last cluster is not whole. */
const DISK_BYTES = {
  '512': 2.5 * MIB + 512,
  '4k': 5 * MIB + 512,
  '16k': 5 * MIB + 1024,
  '64k': 6 * MIB + 1536,
  '2M': 19 * MIB + 4096,
} as const;

export const PASSWORD = 'ein Geheimnis';
const SECRET = `secret,id=s,data=${PASSWORD}`;

const has = (row: Row, word: string): boolean => row.feature.includes(word);
export const isEncrypted = (row: Row): boolean => row.feature.startsWith('luks') || row.feature === 'aes';
export const hasSnapshots = (row: Row): boolean => has(row, 'snapshots');
export const hasBacking = (row: Row): boolean => has(row, 'backing');
const isCompressed = (row: Row): boolean => has(row, 'zlib') || has(row, 'zstd');
const isExtended = (row: Row): boolean => has(row, 'extended L2');
const hasDataFile = (row: Row): boolean => has(row, 'data file');

/** What QEMU refuses to make is no row. */
function isLegal(row: Row): boolean {
  const { version, clusterSize, refcountBits } = row;
  if (version === 2) {
    if (refcountBits !== 16 || isExtended(row) || hasDataFile(row) || has(row, 'zstd')) return false;
  }
  // 32 subclusters of 512 bytes or more
  if (isExtended(row) && (clusterSize === '512' || clusterSize === '4k')) return false;
  if (!isExtended(row) && clusterSize === '16k') return false;
  if (COMBINED.includes(row.feature) && refcountBits !== 16) return false;
  // two snapshots and the active layer share clusters
  return !hasSnapshots(row) || refcountBits >= 2;
}

const REFCOUNT_BITS = [1, 2, 8, 16, 64] as const;

/**
 * Every legal version with every cluster size and every feature, and `widths` of the widths of reference counts that are legal
 * there, other ones for each size and feature. With two, every width meets every cluster size and every feature.
 * @param turn which widths come first: five turns take all of them everywhere
 */
export function rowsWith(widths: number, turn: number): Row[] {
  const rows: Row[] = [];
  for (const version of [2, 3] as const) {
    for (const [sizeIndex, clusterSize] of (Object.keys(DISK_BYTES) as (keyof typeof DISK_BYTES)[]).entries()) {
      for (const [featureIndex, feature] of FEATURES.entries()) {
        const legal = REFCOUNT_BITS.map((refcountBits) => ({ version, clusterSize, refcountBits, feature })).filter(
          isLegal,
        );
        const first = 2 * sizeIndex + featureIndex + turn;
        // clusters of 16 KiB have one feature with a choice
        const count = clusterSize === '16k' ? legal.length : Math.min(widths, legal.length);
        for (let n = 0; n < count; n++) rows.push(legal[(first + n) % legal.length]!);
      }
    }
  }
  return rows;
}

export function nameOf({ version, clusterSize, refcountBits, feature }: Row): string {
  return `v${version}, clusters of ${clusterSize}, ${refcountBits}-bit counts, ${feature}`;
}

async function runQemu(program: string, ...parameters: readonly string[]): Promise<{ stdout: string }> {
  return await run(program, parameters, { timeout: TIMEOUT_MS, encoding: 'utf8' });
}

/** qemu-img measures CPU time to choose the iterations of LUKS, and gives up where the clock is coarse; then again. */
async function createLuks(...parameters: readonly string[]): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    try {
      await runQemu('qemu-img', 'create', '-q', '-f', 'qcow2', '--object', SECRET, ...parameters);
      return;
    } catch (error) {
      if (attempt === 40 || !String(error).includes('Unable to get accurate CPU usage')) throw error;
    }
  }
}

const LUKS = 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10';
const LUKS_BASE_BYTES = 1.5 * MIB;
let luksBase: { readonly folder: string; readonly path: Promise<string> } | undefined;

/** An empty LUKS image to copy: making one takes qemu-img seconds of CPU time, whatever its iter-time. */
function emptyLuksBase(): Promise<string> {
  if (luksBase === undefined) {
    const folder = makeTemporaryDirectory();
    const path = join(folder, 'luks.qcow2');
    luksBase = { folder, path: createLuks('-o', LUKS, path, String(LUKS_BASE_BYTES)).then(() => path) };
  }
  return luksBase.path;
}

/** Removes what the rows share. */
export function removeShared(): void {
  if (luksBase !== undefined) removeTemporaryDirectory(luksBase.folder);
  luksBase = undefined;
}

/** An image of a row in a folder of its own. */
export class MatrixImage {
  readonly row: Row;
  readonly folder: string;
  readonly path: string;
  readonly size: number;
  private readonly random: () => number;

  constructor(row: Row, folder: string, seed: number) {
    this.row = row;
    this.folder = folder;
    this.path = join(folder, 'disk.qcow2');
    this.size = DISK_BYTES[row.clusterSize];
    this.random = seededRandom(seed);
  }

  /** Makes it: created or converted, written, and written again after each snapshot. */
  async make(): Promise<void> {
    const { row } = this;
    await this.createEmpty();
    await this.write(8);
    if (!hasSnapshots(row)) return;
    for (const name of ['first', 'second']) {
      await this.qemuImg('snapshot', ['-c', name]);
      await this.write(3);
    }
  }

  /** `qemu-img check`, which must find nothing. */
  async check(): Promise<void> {
    await this.qemuImg('check', ['-q']);
  }

  /** What QEMU reads. @param snapshot name of a snapshot instead of the disk */
  async content(snapshot?: string): Promise<Buffer> {
    const path = join(this.folder, 'content.raw');
    await this.qemuImg('convert', [...(snapshot === undefined ? [] : ['-l', `snapshot.name=${snapshot}`])], path);
    return (await readFile(path)).subarray(0, this.size);
  }

  /** `qemu-img compare` with these bytes, which must be equal. */
  async compare(bytes: Uint8Array): Promise<void> {
    const path = join(this.folder, 'model.raw');
    await writeFile(path, bytes);
    await this.qemu(
      'qemu-img',
      'compare',
      '-q',
      ...this.secret(),
      '--image-opts',
      this.options(),
      `driver=raw,file.filename=${path}`,
    );
  }

  /** The disk in the data file. @throws where there is anything behind it: QEMU makes the file as long as whole clusters */
  async dataFile(): Promise<Buffer> {
    const bytes = await readFile(join(this.folder, 'disk.data'));
    if (bytes.subarray(this.size).some((byte) => byte !== 0)) throw new Error('data behind the end of the disk');
    return bytes.subarray(0, this.size);
  }

  private async createEmpty(): Promise<void> {
    const { row, size } = this;
    const raw = join(this.folder, 'source.raw');
    const options = this.createOptions().join(',');
    if (row.feature.startsWith('luks')) {
      await this.createLuks();
      return;
    }
    if (hasBacking(row)) {
      // shorter than the disk above it; half of the rows have a raw file below, the others another qcow2 image
      const baseBytes = Math.floor(size / 1536) * 1024;
      const format = row.refcountBits > 8 ? 'qcow2' : 'raw';
      const base = join(this.folder, 'base.img');
      await this.create('-f', format, base, String(baseBytes));
      await this.qemuIo(`driver=${format},file.filename=${base}`, this.writes(6, baseBytes, 4096));
      await this.create('-f', 'qcow2', '-o', options, '-b', base, '-F', format, this.path, String(size));
      return;
    }
    if (!isCompressed(row)) {
      await this.create('-f', 'qcow2', '-o', options, this.path, String(size));
      return;
    }
    await writeFile(raw, this.compressible());
    await this.qemu('qemu-img', 'convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', options, raw, this.path);
  }

  private async createLuks(): Promise<void> {
    const { row, folder, path, size } = this;
    const options = ['-o', this.createOptions().join(',')];
    if (!hasBacking(row)) {
      await createLuks(...options, path, String(size));
      return;
    }
    const base = join(folder, 'base.img');
    await copyFile(await emptyLuksBase(), base);
    const node = `driver=qcow2,file.filename=${base},encrypt.key-secret=s`;
    await this.qemuIo(node, this.writes(6, LUKS_BASE_BYTES, 4096));
    // qemu-img would want the key of the file below to look at its size
    await createLuks(...options, '-u', '-b', base, '-F', 'qcow2', path, String(size));
  }

  private createOptions(): string[] {
    const { row } = this;
    return [
      `compat=${row.version === 2 ? '0.10' : '1.1'}`,
      `cluster_size=${row.clusterSize}`,
      `refcount_bits=${row.refcountBits}`,
      ...(has(row, 'zstd') ? ['compression_type=zstd'] : []),
      ...(isExtended(row) ? ['extended_l2=on'] : []),
      ...(hasDataFile(row) ? [`data_file=${join(this.folder, 'disk.data')}`] : []),
      ...(row.feature === 'raw data file' ? ['data_file_raw=on'] : []),
      ...(row.feature === 'aes' ? ['encrypt.format=aes,encrypt.key-secret=s'] : []),
      ...(row.feature.startsWith('luks') ? [LUKS] : []),
    ];
  }

  private secret(): string[] {
    return isEncrypted(this.row) ? ['--object', SECRET] : [];
  }

  /** How QEMU opens it. */
  private options(): string {
    const { row } = this;
    const below = isEncrypted(row) && hasBacking(row) ? ',backing.encrypt.key-secret=s' : '';
    return `driver=qcow2,file.filename=${this.path}${isEncrypted(row) ? ',encrypt.key-secret=s' : ''}${below}`;
  }

  private async write(count: number): Promise<void> {
    await this.qemuIo(this.options(), this.writes(count, this.size, 512));
  }

  /** Commands of qemu-io: data, zeros of both kinds, discards, and compressed clusters, aligned as it asks for. */
  private writes(count: number, size: number, alignment: number): string[] {
    const commands: string[] = [];
    for (let n = 0; n < count; n++) {
      const at = Math.floor((this.random() * size) / alignment) * alignment;
      const most = Math.min(size - at, this.random() < 0.5 ? 16 * 1024 : size / 4);
      const length = Math.max(alignment, Math.floor((this.random() * most) / alignment) * alignment);
      if (at + length > size) continue;
      const pick = this.random();
      if (pick < 0.65) commands.push(`write -P ${1 + Math.floor(this.random() * 255)} ${at} ${length}`);
      else if (pick < 0.75) commands.push(`write -z ${at} ${length}`);
      else if (pick < 0.85) commands.push(`write -zu ${at} ${length}`);
      else commands.push(`discard ${at} ${length}`);
    }
    return commands;
  }

  private async qemuIo(node: string, commands: readonly string[]): Promise<void> {
    const parameters = commands.flatMap((command) => ['-c', command]);
    const { stdout } = await this.qemu('qemu-io', '-d', 'unmap', ...this.secret(), '--image-opts', node, ...parameters);
    if (/failed|error/i.test(stdout)) throw new Error(stdout);
  }

  private async qemuImg(command: string, parameters: readonly string[], ...behind: readonly string[]): Promise<void> {
    await this.qemu('qemu-img', command, ...parameters, ...this.secret(), '--image-opts', this.options(), ...behind);
  }

  private async create(...parameters: readonly string[]): Promise<void> {
    await this.qemu('qemu-img', 'create', '-q', ...this.secret(), ...parameters);
  }

  private async qemu(program: string, ...parameters: readonly string[]): Promise<{ stdout: string }> {
    return await runQemu(program, ...parameters);
  }

  /** Runs of text, of one byte and of noise. */
  private compressible(): Uint8Array {
    const bytes = new Uint8Array(this.size);
    for (let at = 0; at < bytes.length; ) {
      const end = Math.min(bytes.length, at + Math.ceil(this.random() * 60_000));
      const kind = Math.floor(this.random() * 4);
      const byte = Math.floor(this.random() * 256);
      for (let i = at; i < end; i++) bytes[i] = [0, byte, this.random() * 256, 32 + (((i * i) >> 5) % 64)][kind]!;
      at = end;
    }
    return bytes;
  }
}
