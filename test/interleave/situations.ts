// What the tests at every point share: threads with a folder for each test, names for requests, and situations of them.

import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import type { Failpoint } from '../../src/concurrency/failpoints.ts';
import { type Operation, Script } from '../support/script.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';
import { CLUSTER, Interleaving, type Subject } from './interleaving.ts';

/** The first cluster that nothing was ever written to. */
export const EMPTY = 16 * CLUSTER;

export const write = (at: number, length: number, value: number): Operation => ({ kind: 'write', at, length, value });
export const read = (at: number, length = 512): Operation => ({ kind: 'read', at, length });
export const discard = (at: number, length = CLUSTER): Operation => ({ kind: 'discard', at, length });
export const zero = (at: number, length = CLUSTER): Operation => ({ kind: 'zero', at, length });
export const preallocate = (at: number, length = CLUSTER): Operation => ({ kind: 'preallocate', at, length });
export const flush: Operation = { kind: 'flush' };
export const maintain: Operation = { kind: 'maintain' };

/** `first` is stopped at each of its points while `others` go on; `before` is done and not flushed when it begins. */
export interface Situation {
  readonly name: string;
  readonly first: Operation;
  readonly others: readonly Operation[];
  readonly before?: readonly Operation[];
  /** at its points of these names; absent: at all, but of lookups that follow each other the first only */
  readonly only?: readonly Failpoint[];
}

/** Two threads for the tests of a file, and a folder of its own for each of them: there from the first hook on. */
export interface Setting {
  readonly script: Script;
  readonly folder: string;
}

export function useTwoThreads(): Setting {
  const setting = {} as { script: Script; folder: string };
  beforeAll(async () => {
    setting.script = await Script.start(2);
  });
  afterAll(() => setting.script.end());
  beforeEach(() => {
    setting.folder = makeTemporaryDirectory();
  });
  afterEach(() => removeTemporaryDirectory(setting.folder));
  return setting;
}

/** A test for each situation, at every point. @param title in front of their names */
export function testSituations(setting: Setting, subject: Subject, situations: readonly Situation[], title = ''): void {
  for (const { name, first, others, before, only } of situations) {
    // some have sixty points, and half a second of work at each; a busy machine takes its time
    test(title + name, { timeout: 300_000 }, async () => {
      const interleaving = new Interleaving(setting.folder, setting.script, subject);
      expect(await interleaving.everyPoint(first, others, before, only)).toBeGreaterThan(0);
    });
  }
}
