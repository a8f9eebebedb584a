// A thread of two-writers.test.ts: writes one sector of the shared image and says so.

import { parentPort, workerData } from 'node:worker_threads';
import { attachDisk } from '../../dist/disk/index.js';

const { shared, slot } = workerData;
attachDisk(shared, slot).write(new Uint8Array(512).fill(slot), 0, 512, slot * 512);
parentPort.postMessage(slot);
