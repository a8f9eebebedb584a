// A mount of the kernel transport after INIT: its descriptor, what was agreed with the kernel, and the ways to end it.

import * as fs from 'node:fs';
import { ImgfuseError } from '../errors/index.ts';
import { cloneDevice } from './device.ts';
import { type Invalidation, invalidateNode } from './invalidate.ts';
import { mountsOfConnection } from './mount-table.ts';
import type { Protocol } from './protocol.ts';
import { abortMount, type UnmountOptions, unmountPath } from './unmount.ts';

export interface SessionParts {
  readonly fd: number;
  readonly protocol: Protocol;
  /** canonical path, or /dev/fd/N where the kernel does not tell which mount that is */
  readonly mountpoint: string;
  readonly rootIsFile: boolean;
  /** number of the FUSE connection, where it is known */
  readonly connection: number | undefined;
  /** mounted by another program, which also has the right to unmount it */
  readonly inherited: boolean;
}

export class KernelSession {
  /** descriptor of /dev/fuse */
  readonly fd: number;
  readonly protocol: Protocol;
  readonly mountpoint: string;
  /** whether the mountpoint is a regular file, so that the root must be one as well */
  readonly rootIsFile: boolean;
  readonly inherited: boolean;
  private readonly connection: number | undefined;

  constructor(parts: SessionParts) {
    this.fd = parts.fd;
    this.protocol = parts.protocol;
    this.mountpoint = parts.mountpoint;
    this.rootIsFile = parts.rootIsFile;
    this.inherited = parts.inherited;
    this.connection = parts.connection;
  }

  /** A descriptor for one worker; may be `fd` itself where descriptors cannot be cloned. */
  cloneDevice(): number {
    return cloneDevice(this.fd);
  }

  /** Makes the kernel drop what it has cached of a node, while other threads serve its requests. */
  invalidate(node: number, what: Invalidation): Promise<void> {
    return invalidateNode(this.fd, node, what);
  }

  /**
   * Unmounts every place where the mount is seen; then the workers see the end of the connection, unless another mount
   * namespace still has it.
   * @throws ImgfuseError busy (in use, or covered by another mount), missing (gone already), permission
   */
  unmount(options: UnmountOptions = {}): void {
    const places = this.connection === undefined ? [] : mountsOfConnection(this.connection);
    if (places.length === 0) {
      throw new ImgfuseError('missing', `${this.mountpoint} is not mounted by us any more`, { path: this.mountpoint });
    }
    for (const { mountpoint } of places) unmountPath(mountpoint, options);
  }

  /** Ends the connection by force: see abortMount. The mount stays in the table until it is unmounted. */
  abort(): void {
    abortMount(this.mountpoint, this.connection);
  }

  /** Closes the descriptor; only after every worker has returned. */
  close(): void {
    fs.closeSync(this.fd);
  }
}
