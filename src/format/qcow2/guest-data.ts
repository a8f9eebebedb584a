// The guest's bytes at a host offset: the one place that knows which file holds them. Everything that moves guest data goes
// through here, and nothing that moves metadata or compressed clusters, which always lie in the image file. A plain image
// pays nothing: the request's own buffer goes to the host file.

import { hostOffset } from '../../bytes/offsets.ts';
import { type HostFile, readPadded } from '../../host/host-file.ts';

export class GuestData {
  private readonly file: HostFile;

  constructor(file: HostFile) {
    this.file = file;
  }

  /** Reads what the guest wrote at `host`; what lies behind the end of the file is zeros. */
  read(target: Uint8Array, targetOffset: number, length: number, host: number): void {
    // the last cluster of a file need not be whole
    readPadded(this.file, target, targetOffset, length, hostOffset(host));
  }

  write(source: Uint8Array, sourceOffset: number, length: number, host: number): void {
    this.file.write(source, sourceOffset, length, hostOffset(host));
  }

  /** Part of a cluster in use reads as zeros to the guest and takes no space where the host can do that. */
  punch(length: number, host: number): void {
    this.file.punchHole(hostOffset(host), length);
  }

  /** Part of a new cluster reads as zeros to the guest. */
  zero(length: number, host: number): void {
    this.file.zeroRange(hostOffset(host), length);
  }
}
