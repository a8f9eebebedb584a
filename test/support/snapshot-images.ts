// Images with internal snapshots that QEMU has made at several states of the disk, and what QEMU reads of each snapshot.

import { execFileSync } from 'node:child_process';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { qemuImg, tryQemu } from './qemu.ts';
import { seededRandom } from './random.ts';

const KIB = 1024;
export const PASSWORD = 'geheim';
const SECRET = ['--object', `secret,id=s,data=${PASSWORD}`];

export interface SnapshotKind {
  readonly name: string;
  /** -o of qemu-img create */
  readonly options: string;
  readonly clusterSize: number;
  readonly hasBacking?: boolean;
  /** writes some clusters compressed */
  readonly isCompressed?: boolean;
  readonly isEncrypted?: boolean;
  /** the disk has another size after each snapshot */
  readonly isResized?: boolean;
}

/** Tables of one entry up to a whole disk, and everything that may stand in an L2 entry. */
export const SNAPSHOT_KINDS: readonly SnapshotKind[] = [
  { name: 'clusters of 64 KiB', options: 'cluster_size=64k', clusterSize: 64 * KIB },
  { name: 'clusters of 512 bytes', options: 'cluster_size=512', clusterSize: 512 },
  { name: 'version 2', options: 'compat=0.10,cluster_size=4k', clusterSize: 4 * KIB, isCompressed: true },
  { name: 'lazy refcounts', options: 'cluster_size=4k,lazy_refcounts=on', clusterSize: 4 * KIB },
  { name: 'counts of 4 bits', options: 'cluster_size=4k,refcount_bits=4', clusterSize: 4 * KIB },
  { name: 'zlib', options: 'cluster_size=64k', clusterSize: 64 * KIB, isCompressed: true, hasBacking: true },
  { name: 'zstd', options: 'cluster_size=64k,compression_type=zstd', clusterSize: 64 * KIB, isCompressed: true },
  { name: 'extended L2', options: 'cluster_size=16k,extended_l2=on', clusterSize: 16 * KIB, isCompressed: true },
  {
    name: 'extended L2 over a backing file',
    options: 'cluster_size=64k,extended_l2=on',
    clusterSize: 64 * KIB,
    hasBacking: true,
  },
  { name: 'a backing file', options: 'cluster_size=4k', clusterSize: 4 * KIB, hasBacking: true },
  { name: 'another size since', options: 'cluster_size=4k', clusterSize: 4 * KIB, hasBacking: true, isResized: true },
  {
    name: 'LUKS',
    options: 'cluster_size=4k,encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10',
    clusterSize: 4 * KIB,
    isEncrypted: true,
  },
  {
    name: 'AES',
    options: 'cluster_size=4k,encrypt.format=aes,encrypt.key-secret=s',
    clusterSize: 4 * KIB,
    isEncrypted: true,
    hasBacking: true,
  },
];

const SIZE = 3 * KIB * KIB + 1536;
export const SNAPSHOT_NAMES = ['first', 'zwei / ½', 'third', 'last'] as const;

export class SnapshotImageFile {
  readonly kind: SnapshotKind;
  readonly path: string;
  private readonly folder: string;
  private readonly random: () => number;
  private size = SIZE;
  private readonly sizes: number[] = [];

  /** Makes it in an empty folder. */
  constructor(folder: string, kind: SnapshotKind, seed: number) {
    this.kind = kind;
    this.folder = folder;
    this.path = join(folder, 'disk.qcow2');
    this.random = seededRandom(seed);
    const base = join(folder, 'base.raw');
    const below = kind.hasBacking === true ? ['-b', base, '-F', 'raw'] : [];
    // longer than some states of the disk, and no multiple of a cluster
    if (kind.hasBacking === true) writeFileSync(base, this.text(SIZE - 700 * KIB + 512));
    qemuImg('create', '-q', '-f', 'qcow2', ...this.secret(), '-o', kind.options, ...below, this.path, String(SIZE));
    if (kind.isCompressed === true) this.qemuIo(this.compressedWrites());
    for (const [position, name] of SNAPSHOT_NAMES.entries()) {
      this.change(position === 0 ? 10 : 5);
      this.qemuImg('snapshot', ['-c', name]);
      this.sizes.push(this.size);
      if (kind.isResized === true) this.resize([1100 * KIB, -1900 * KIB, 900 * KIB, -KIB * 64][position]!);
    }
    this.change(5);
  }

  /** What QEMU reads of a snapshot. It reads as many bytes as the disk has now, so only those that the snapshot has count. */
  contentOf(name: string): Buffer {
    const raw = join(this.folder, 'content.raw');
    this.qemuImg('convert', ['-l', `snapshot.name=${name}`], raw);
    return readFileSync(raw).subarray(0, this.sizeOf(name));
  }

  /** The whole disk once the snapshot has been applied to a copy. */
  contentWhenApplied(name: string): Buffer {
    const copy = join(this.folder, 'applied.qcow2');
    const raw = join(this.folder, 'content.raw');
    copyFileSync(this.path, copy);
    this.qemuImg('snapshot', ['-a', name], undefined, copy);
    this.qemuImg('convert', [], raw, copy);
    return readFileSync(raw);
  }

  sizeOf(name: string): number {
    return this.sizes[SNAPSHOT_NAMES.indexOf(name as (typeof SNAPSHOT_NAMES)[number])]!;
  }

  check(): void {
    const { code, output } = tryQemu('qemu-img', 'check', ...this.secret(), '--image-opts', this.node());
    if (code !== 0) throw new Error(`qemu-img check exits with ${code}: ${output}`);
  }

  private resize(change: number): void {
    this.size += change;
    this.qemuImg('resize', ['-q', ...(change < 0 ? ['--shrink'] : [])], String(this.size));
  }

  private change(count: number): void {
    this.qemuIo(Array.from({ length: count }, () => this.command()));
  }

  private qemuIo(commands: readonly string[]): void {
    const each = commands.flatMap((command) => ['-c', command]);
    const args = ['-d', 'unmap', ...this.secret(), '--image-opts', this.node(), ...each];
    const output = execFileSync('qemu-io', args, { encoding: 'utf8', timeout: 60_000 });
    if (/failed|error/i.test(output)) throw new Error(output);
  }

  private command(): string {
    const { random, size } = this;
    const pick = random();
    const most = pick < 0.4 ? 8 * KIB : size / 5;
    const at = Math.floor((random() * (size - 512)) / 512) * 512;
    const length = Math.max(512, Math.floor((random() * Math.min(most, size - at)) / 512) * 512);
    if (pick < 0.7) return `write -P ${this.byte()} ${at} ${length}`;
    if (pick < 0.8) return `write -z ${at} ${length}`;
    return pick < 0.9 ? `write -zu ${at} ${length}` : `discard ${at} ${length}`;
  }

  /** Clusters all over the disk: QEMU compresses only what has no place yet. Several of them share a host cluster. */
  private compressedWrites(): string[] {
    const { clusterSize } = this.kind;
    const clusters = Math.floor(SIZE / clusterSize);
    return Array.from({ length: 16 }, (_, i) => {
      const cluster = Math.floor((clusters / 16) * i);
      return `write -c -P ${this.byte()} ${cluster * clusterSize} ${clusterSize}`;
    });
  }

  private byte(): number {
    return 1 + Math.floor(this.random() * 255);
  }

  private text(length: number): Uint8Array {
    return Uint8Array.from({ length }, (_, i) => 65 + ((i >> 9) % 26));
  }

  private secret(): readonly string[] {
    return this.kind.isEncrypted === true ? SECRET : [];
  }

  private node(path = this.path): string {
    return `driver=qcow2,file.filename=${path}${this.kind.isEncrypted === true ? ',encrypt.key-secret=s' : ''}`;
  }

  private qemuImg(command: string, parameters: readonly string[], behind?: string, path = this.path): void {
    const last = behind === undefined ? [] : [behind];
    qemuImg(command, ...parameters, ...this.secret(), '--image-opts', this.node(path), ...last);
  }
}
