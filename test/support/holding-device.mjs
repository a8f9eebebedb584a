// The device of a worker that holds each WRITE it has received, before anything acts on it, for as long as a test wants that.

import { Device } from '../../dist/fuse/index.js';

const FUSE_WRITE = 16;

export class HoldingDevice extends Device {
  /** @param hold two Int32 of shared memory: 1 while WRITEs are held, and how many are */
  constructor(fd, hold) {
    super(fd);
    this.hold = hold;
  }

  receive(target) {
    const received = super.receive(target);
    const opcode = new DataView(target.buffer, target.byteOffset).getUint32(4, true);
    if (received > 0 && opcode === FUSE_WRITE) {
      Atomics.add(this.hold, 1, 1);
      Atomics.wait(this.hold, 0, 1);
      Atomics.sub(this.hold, 1, 1);
    }
    return received;
  }
}
