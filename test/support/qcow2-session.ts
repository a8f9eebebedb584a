// A qcow2 image that qemu-img made, opened here in memory beside a model of its disk; what is left behind is judged by QEMU.

import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { guestOffset, hostOffset } from '../../src/bytes/offsets.ts';
import type { WritableImage } from '../../src/format/image-format.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import { raw } from '../../src/format/raw/index.ts';
import type { HostFile } from '../../src/host/host-file.ts';
import { firstDifference } from './image-files.ts';
import { MemoryHostFile } from './memory-file.ts';
import { openImage } from './memory-images.ts';
import { qemuCheck, qemuImg } from './qemu.ts';

export interface SessionOptions {
  /** -o of qemu-img create */
  readonly options?: string;
  readonly size: number;
  /** content of a raw backing file */
  readonly backing?: Uint8Array;
  /** commands of qemu-io, before the image is opened here */
  readonly commands?: readonly string[];
  /** what is done to the image by qemu-img between, such as taking a snapshot */
  readonly prepare?: (path: string) => void;
  readonly tableCacheBytes?: number;
}

/** A read-only file with holes where there are pages of zeros, as QEMU's tools leave them. */
function sparse(bytes: Uint8Array): MemoryHostFile {
  const file = new MemoryHostFile(new Uint8Array(0), '/base');
  file.truncate(bytes.length);
  for (let at = 0; at < bytes.length; at += 4096) {
    const page = bytes.subarray(at, at + 4096);
    if (page.some((byte) => byte !== 0)) file.write(page, 0, page.length, hostOffset(at));
  }
  return file;
}

export class Qcow2Session {
  readonly path: string;
  readonly folder: string;
  readonly file: MemoryHostFile;
  readonly model: Buffer;
  image: WritableImage;
  private readonly backing: Uint8Array | undefined;
  private readonly tableCacheBytes: number;

  constructor(folder: string, { options = '', size, backing, commands = [], prepare, ...rest }: SessionOptions) {
    this.folder = folder;
    this.path = join(folder, 'disk.qcow2');
    this.backing = backing;
    this.tableCacheBytes = rest.tableCacheBytes ?? 64 * 1024;
    const base = join(folder, 'base.raw');
    if (backing !== undefined) writeFileSync(base, backing);
    const o = options === '' ? [] : ['-o', options];
    const below = backing === undefined ? [] : ['-b', base, '-F', 'raw'];
    qemuImg('create', '-q', '-f', 'qcow2', ...o, ...below, this.path, String(size));
    this.qemuIo(...commands);
    prepare?.(this.path);
    this.model = this.seenByQemu(size);
    this.file = new MemoryHostFile(readFileSync(this.path), this.path);
    this.image = this.open();
  }

  /** Opens the image once more, over another file if one is given. */
  open(file: HostFile = this.file): WritableImage {
    const backing = this.backing === undefined ? null : openImage(raw, sparse(this.backing), { readOnly: true });
    return openImage(qcow2, file, { backing, tableCacheBytes: this.tableCacheBytes });
  }

  write(at: number, length: number, byte: number): void {
    this.image.write(new Uint8Array(length).fill(byte), 0, length, guestOffset(at));
    this.model.fill(byte, at, at + length);
  }

  zero(at: number, length: number): void {
    this.image.writeZeroes(guestOffset(at), length);
    this.model.fill(0, at, at + length);
  }

  discard(at: number, length: number): void {
    this.image.discard(guestOffset(at), length);
    this.model.fill(0, at, at + length);
  }

  /** Expects the disk to be the model. */
  expectContent(image = this.image): void {
    const bytes = Buffer.alloc(this.model.length, 0xee);
    image.read(bytes, 0, bytes.length, guestOffset(0));
    expect(firstDifference(bytes, this.model)).toBe('none');
  }

  /** The disk is the model, here and, closed, for QEMU, which finds the image clean. Nothing can be done with it any more. */
  finish(): void {
    this.expectContent();
    this.image.close();
    this.save();
    qemuCheck(this.path, 'qcow2');
    expect(firstDifference(this.seenByQemu(this.model.length), this.model)).toBe('none');
  }

  /** Writes the image to its path. */
  save(): void {
    writeFileSync(this.path, this.file.bytes());
  }

  qemuIo(...commands: readonly string[]): void {
    if (commands.length === 0) return;
    const parameters = ['-d', 'unmap', '-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), this.path];
    const output = execFileSync('qemu-io', parameters, { encoding: 'utf8', timeout: 60_000 });
    if (/failed|error|mismatch/i.test(output)) throw new Error(output);
  }

  /** What QEMU reads, of the disk or of a snapshot. */
  seenByQemu(size: number, snapshot?: string): Buffer {
    const path = join(this.folder, 'seen.raw');
    const chosen = snapshot === undefined ? [] : ['-l', `snapshot.name=${snapshot}`];
    qemuImg('convert', ...chosen, '-f', 'qcow2', '-O', 'raw', this.path, path);
    return readFileSync(path).subarray(0, size);
  }
}
