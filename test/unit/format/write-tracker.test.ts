// WriteTracker: a flush costs an fdatasync only where something was written, one fdatasync serves every flush that waits, and
// a failure turns the image read-only.

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { ERRNO, errnoOf, ImgfuseError } from '../../../src/errors/index.ts';
import { createWriteTrackerState, WriteTracker } from '../../../src/format/write-tracker.ts';
import type { HostFile } from '../../../src/host/host-file.ts';
import { isBuilt } from '../../support/image-files.ts';
import { MemoryHostFile } from '../../support/memory-file.ts';
import { requireOrSkip } from '../../support/requirements.ts';
import { CountingHostFile, FaultyHostFile } from '../../support/wrapping-files.ts';

const nothing = () => undefined;

function tracker(file: HostFile = new MemoryHostFile()): {
  tracker: WriteTracker;
  log: string[];
  state: SharedArrayBuffer;
} {
  const log: string[] = [];
  const state = createWriteTrackerState();
  return { tracker: new WriteTracker(state, file, (sentence) => log.push(sentence)), log, state };
}

describe('a flush', () => {
  test('with nothing written costs no fdatasync; one after any number of writes costs one', () => {
    const file = new CountingHostFile(new MemoryHostFile());
    const { tracker: subject } = tracker(file);
    subject.flush(nothing, nothing);
    expect(file.calls.sync).toBe(0);
    for (let i = 0; i < 5; i++) subject.noteWrite();
    for (let i = 0; i < 3; i++) subject.flush(nothing, nothing);
    expect(file.calls.sync).toBe(1);
  });

  test('runs prepare, fdatasync and settle in this order, and does not cover what completes during prepare', () => {
    const order: string[] = [];
    const file = new MemoryHostFile();
    file.sync = () => void order.push('sync');
    const { tracker: subject } = tracker(file);
    subject.noteWrite();
    subject.flush(
      () => {
        order.push('prepare');
        subject.noteWrite();
      },
      () => void order.push('settle'),
    );
    expect(order).toEqual(['prepare', 'sync', 'settle']);
    // what another thread completed during the fdatasync of prepare may have been put off: it needs its own flush
    subject.flush(nothing, nothing);
    expect(order).toEqual(['prepare', 'sync', 'settle', 'sync']);
    subject.flush(nothing, nothing);
    expect(order).toHaveLength(4);
  });

  test('does not cover a write that completes while its fdatasync runs', () => {
    let syncs = 0;
    const file = new MemoryHostFile();
    const { tracker: subject } = tracker(file);
    file.sync = () => {
      if (syncs++ === 0) subject.noteWrite();
    };
    subject.noteWrite();
    subject.flush(nothing, nothing);
    subject.flush(nothing, nothing);
    expect(syncs).toBe(2);
  });

  test('that settles with a change of its own leaves that to the next one', () => {
    const file = new CountingHostFile(new MemoryHostFile());
    const { tracker: subject } = tracker(file);
    subject.noteWrite();
    subject.flush(nothing, () => subject.noteWrite());
    expect(file.calls.sync).toBe(1);
    subject.flush(nothing, nothing);
    expect(file.calls.sync).toBe(2);
  });

  test('whose preparation fails is no failure of the image, and the next flush does it again', () => {
    const file = new CountingHostFile(new MemoryHostFile());
    const { tracker: subject } = tracker(file);
    subject.noteWrite();
    const full = () => {
      throw new ImgfuseError('no-space', 'full');
    };
    expect(() => subject.flush(full, nothing)).toThrow('full');
    expect(subject.failure()).toBe(null);
    subject.flush(nothing, nothing);
    expect(file.calls.sync).toBe(1);
  });

  test('counts on when the counter of writes wraps', () => {
    const file = new CountingHostFile(new MemoryHostFile());
    const { tracker: subject, state } = tracker(file);
    new Int32Array(state).fill(0x7fffffff, 0, 2);
    subject.flush(nothing, nothing);
    expect(file.calls.sync).toBe(0);
    subject.noteWrite();
    subject.flush(nothing, nothing);
    subject.flush(nothing, nothing);
    expect(file.calls.sync).toBe(1);
  });
});

describe('a failure', () => {
  test('of an fdatasync makes every later change EROFS and every later flush EIO, in every object over the state', () => {
    const file = new FaultyHostFile(new MemoryHostFile(), (operation) => (operation === 'sync' ? ERRNO.EIO : null));
    const { tracker: subject, log, state } = tracker(file);
    subject.noteWrite();
    expect(() => subject.flush(nothing, nothing)).toThrow('fails by plan');
    expect(log).toHaveLength(1);
    expect(log[0]).toContain('read-only from now on');
    const other = new WriteTracker(state, new MemoryHostFile(), () => undefined);
    for (const each of [subject, other]) {
      expect(each.failure()).toContain('fails by plan');
      expect(errno(() => each.assertWritable())).toBe(ERRNO.EROFS);
      expect(errno(() => each.flush(nothing, nothing))).toBe(ERRNO.EIO);
      expect(errno(() => each.sync())).toBe(ERRNO.EIO);
    }
  });

  test('keeps the first reason only, and a long one is cut', () => {
    const { tracker: subject, log } = tracker();
    subject.fail(new Error('x'.repeat(5000)));
    subject.fail(new Error('second'));
    expect(subject.failure()).toMatch(/^x{1000,1023}$/);
    expect(log).toHaveLength(1);
  });

  test('is seen by another thread with its whole sentence, or not at all', async (context) => {
    requireOrSkip(context, isBuilt(), 'dist/ (npm run build)');
    const { tracker: subject, state } = tracker();
    const source = `
      const { parentPort, workerData: { state, url } } = require('node:worker_threads');
      import(url).then(({ WriteTracker }) => {
        const seen = new WriteTracker(state, { path: 'a.qed' }, () => undefined);
        parentPort.postMessage('ready');
        let failure = null;
        while (failure === null) failure = seen.failure();
        parentPort.postMessage(failure);
      });`;
    const url = new URL('../../../dist/format/write-tracker.js', import.meta.url).href;
    const thread = new Worker(source, { eval: true, workerData: { state, url } });
    await once(thread, 'message');
    const slow = {
      get message(): string {
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
        return 'the disk has gone';
      },
    };
    const told = once(thread, 'message');
    subject.fail(Object.setPrototypeOf(slow, Error.prototype));
    expect(await told).toEqual(['the disk has gone']);
    await thread.terminate();
  });

  test('whose thread died before it had said why is a failure all the same', () => {
    const { tracker: subject, state } = tracker();
    const CLAIMED = 2;
    new Int32Array(state)[3] = CLAIMED;
    expect(errno(() => subject.assertWritable())).toBe(ERRNO.EROFS);
    expect(subject.failure()).toBe('a thread died while it was saying why');
    expect(errno(() => subject.flush(nothing, nothing))).toBe(ERRNO.EIO);
  });

  test.each([
    ['no-space', { transferred: 0 }, false],
    ['no-space', {}, false],
    ['no-space', { transferred: 3 }, true],
    ['io', { transferred: 0 }, true],
  ] as const)('of a metadata write with %s %o turns the image read-only: %s', (kind, context, fails) => {
    const { tracker: subject } = tracker();
    const write = () => {
      throw new ImgfuseError(kind, 'refused', context);
    };
    expect(() => subject.writeMetadata('l2-update', write)).toThrow('refused');
    expect(subject.failure() !== null).toBe(fails);
  });

  function errno(action: () => void): number {
    try {
      action();
    } catch (error) {
      return errnoOf(error);
    }
    return 0;
  }
});
