// The guest's bytes at a host offset: the one place that knows which file holds them and whether they are encrypted there.
// Everything that moves guest data goes through here, and nothing that moves metadata or compressed clusters, which always
// lie in the image file and in the clear. A plain image pays nothing: the request's own buffer goes to the host file.
// Invariant: the buffer of a write is never changed; encryption works on a copy. One object serves one thread.

import { after, type GuestOffset, type HostOffset, roundUp } from '../bytes/offsets.ts';
import { type HostFile, readPadded } from '../host/host-file.ts';
import { CRYPTO_SECTOR_BYTES, type SectorCipher, type VolumeKey } from './encryption.ts';
import { createSectorCipher } from './sector-cipher.ts';

const BOUNCE_BYTES = 256 * 1024;

export class GuestData {
  /** bytes: a write of part of a unit has to read the rest of it; see isWhole */
  readonly unit: number;
  private readonly file: HostFile;
  private readonly cipher: SectorCipher | null;
  private readonly sectorOfGuest: boolean;
  private bounceBuffer: Uint8Array | null = null;

  constructor(file: HostFile, key: VolumeKey | null) {
    this.file = file;
    this.cipher = key === null ? null : createSectorCipher(key);
    this.sectorOfGuest = key?.sectorOf === 'guest';
    this.unit = key === null ? 1 : CRYPTO_SECTOR_BYTES;
  }

  get isEncrypted(): boolean {
    return this.cipher !== null;
  }

  /** A write of the range changes nothing else; another one reads and writes sectors around it, so it must be alone there. */
  isWhole(offset: number, length: number): boolean {
    return offset % this.unit === 0 && length % this.unit === 0;
  }

  /** Reads what the guest wrote at `host`; beyond the end of the file there are zeros. */
  read(target: Uint8Array, targetOffset: number, length: number, host: HostOffset, guest: GuestOffset): void {
    // the last cluster of a file need not be whole
    if (this.cipher === null) readPadded(this.file, target, targetOffset, length, host);
    else this.readEncrypted(target, targetOffset, length, host, guest);
  }

  write(source: Uint8Array, sourceOffset: number, length: number, host: HostOffset, guest: GuestOffset): void {
    if (this.cipher === null) this.file.write(source, sourceOffset, length, host);
    else this.writeEncrypted(source, sourceOffset, length, host, guest);
  }

  /** The file reads as zeros there, and gives the space back if the host can. Not for encrypted data: a hole is no zeros there. */
  punch(length: number, host: HostOffset): void {
    this.file.punchHole(host, length);
  }

  /** The file reads as zeros there, and keeps the space if the host can. Not for encrypted data. */
  zero(length: number, host: HostOffset): void {
    this.file.zeroRange(host, length);
  }

  private readEncrypted(
    target: Uint8Array,
    targetOffset: number,
    length: number,
    host: HostOffset,
    guest: GuestOffset,
  ): void {
    for (let done = 0; done < length; ) {
      const lead = (host + done) % CRYPTO_SECTOR_BYTES;
      const whole = length - done - ((length - done) % CRYPTO_SECTOR_BYTES);
      if (lead === 0 && whole > 0) {
        this.readSectors(target, targetOffset + done, whole, after(host, done), after(guest, done));
        done += whole;
        continue;
      }
      const part = Math.min(length - done, CRYPTO_SECTOR_BYTES - lead);
      const sector = this.bounce();
      this.readSectors(sector, 0, CRYPTO_SECTOR_BYTES, after(host, done - lead), after(guest, done - lead));
      target.set(sector.subarray(lead, lead + part), targetOffset + done);
      done += part;
    }
  }

  private writeEncrypted(
    source: Uint8Array,
    sourceOffset: number,
    length: number,
    host: HostOffset,
    guest: GuestOffset,
  ): void {
    const bounce = this.bounce();
    for (let done = 0; done < length; ) {
      const lead = (host + done) % CRYPTO_SECTOR_BYTES;
      const part = Math.min(length - done, BOUNCE_BYTES - lead);
      const span = roundUp(lead + part, CRYPTO_SECTOR_BYTES);
      const hostStart = after(host, done - lead);
      const guestStart = after(guest, done - lead);
      if (lead > 0) this.readSectors(bounce, 0, CRYPTO_SECTOR_BYTES, hostStart, guestStart);
      const last = span - CRYPTO_SECTOR_BYTES;
      if (lead + part < span && !(lead > 0 && last === 0)) {
        this.readSectors(bounce, last, CRYPTO_SECTOR_BYTES, after(hostStart, last), after(guestStart, last));
      }
      bounce.set(source.subarray(sourceOffset + done, sourceOffset + done + part), lead);
      this.cipher!.encrypt(bounce, 0, span, this.sectorAt(hostStart, guestStart));
      this.file.write(bounce, 0, span, hostStart);
      done += part;
    }
  }

  private readSectors(target: Uint8Array, at: number, length: number, host: HostOffset, guest: GuestOffset): void {
    readPadded(this.file, target, at, length, host);
    this.cipher!.decrypt(target, at, length, this.sectorAt(host, guest));
  }

  private sectorAt(host: HostOffset, guest: GuestOffset): number {
    return (this.sectorOfGuest ? guest : host) / CRYPTO_SECTOR_BYTES;
  }

  private bounce(): Uint8Array {
    this.bounceBuffer ??= new Uint8Array(BOUNCE_BYTES);
    return this.bounceBuffer;
  }
}
