// Which host clusters of an image are holes of its file, so that their data reads as zeros: clusters that were preallocated and
// never written. What the host said is kept for one hold of the metadata lock only: the next write can fill a hole.

import { hostOffset } from '../../bytes/offsets.ts';
import type { HostFile } from '../../host/host-file.ts';

/** Questions to the host in one hold of the metadata lock. Each is a system call, or a round trip to a file server. */
const MAX_ASKED = 64;
const FIRST_LOOK_BACK = 1024 * 1024;
const MAX_LOOK_BACK = 1024 * 1024 * 1024;

export class HostHoles {
  /** whether the bytes of the last look are a hole */
  isHole = false;
  private readonly file: HostFile;
  private questions = 0;
  private lookBack = FIRST_LOOK_BACK;
  private dataStart = 0;
  private dataEnd = 0;
  private holeStart = 0;
  private holeEnd = 0;

  /** @param file that holds the guest's data, which is not encrypted: a hole decrypts to noise */
  constructor(file: HostFile) {
    this.file = file;
  }

  /** Forgets what the host said. Called at the start of each hold of the metadata lock. */
  restart(): void {
    this.dataEnd = 0;
    this.holeEnd = 0;
    this.goOn();
  }

  /** Keeps what the host said: for one look at a whole image that nobody here can write to. */
  goOn(): void {
    this.questions = MAX_ASKED;
    this.lookBack = FIRST_LOOK_BACK;
  }

  /** Nobody here can fill a hole. */
  get isReadOnly(): boolean {
    return this.file.readOnly;
  }

  /**
   * Sets `isHole` for the byte at `host`. @returns how many of `length` bytes are the same from there on; 0 when the host was asked
   * too often since the restart
   */
  look(host: number, length: number): number {
    if (!this.isKnown(host)) {
      if (this.questions === 0) return 0;
      this.questions--;
      this.ask(host, length);
    }
    this.isHole = host >= this.holeStart && host < this.holeEnd;
    return Math.min(length, (this.isHole ? this.holeEnd : this.dataEnd) - host);
  }

  private isKnown(host: number): boolean {
    return (host >= this.dataStart && host < this.dataEnd) || (host >= this.holeStart && host < this.holeEnd);
  }

  /**
   * Asks from an offset before `host`, so that clusters which lie backwards in the file are not asked for one by one: the longer
   * the more that has been of use.
   */
  private ask(host: number, length: number): void {
    const from = Math.max(0, host - this.lookBack);
    this.lookBack = this.askFrom(from, host) ? Math.min(2 * this.lookBack, MAX_LOOK_BACK) : FIRST_LOOK_BACK;
    if (this.isKnown(host) || (from < host && this.askFrom(host, host))) return;
    // what lies behind the end of the file reads as zeros, as a hole does
    this.holeStart = host;
    this.holeEnd = host + length;
  }

  /** @returns whether the first stretch of data or the hole at `from` reaches beyond `host` */
  private askFrom(from: number, host: number): boolean {
    const data = this.file.seekData(hostOffset(from));
    if (data > host) {
      this.holeStart = from;
      this.holeEnd = data;
      return true;
    }
    const end = data < from ? 0 : this.file.seekHole(hostOffset(data));
    if (end <= host) return false;
    this.dataStart = data;
    this.dataEnd = end;
    return true;
  }
}
