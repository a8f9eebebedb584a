// Entry of the thread that looks into the disk for the status: which partitions there are, and what they contain. It works on the
// shared state of the open image, through an attached disk of its own, as the threads do that serve the mount.

import { parentPort } from 'node:worker_threads';
import { attachDisk, type VirtualDisk } from '../../disk/index.ts';
import { describeError } from '../../errors/index.ts';
import { showsTable, sourceOf } from '../../filesystem/index.ts';
import { contentOf, readPartitionTable } from '../../guest/partitions/index.ts';
import { Gate } from '../workers/request-gate.ts';
import { ServingWords } from '../workers/serving-words.ts';
import type { DiskReport, InspectedDisk, InspectorAnswer } from './disk-inspector.ts';

/** The disk of the last look, which the next one most often has as well. */
let attached: { readonly generation: number; readonly disk: VirtualDisk } | null = null;

function diskOf({ disk: shared, slot, generation }: InspectedDisk): VirtualDisk {
  if (attached?.generation !== generation) attached = { generation, disk: attachDisk(shared, slot, () => undefined) };
  return attached.disk;
}

function report(disk: VirtualDisk, { tree }: InspectedDisk): DiskReport {
  const source = sourceOf(disk);
  const table = readPartitionTable(source);
  const { scheme, sectorSize, id, warnings, partitions } = table;
  const isShown = tree === null || showsTable(tree, disk, table);
  const waits = 'the table has changed; partitions/ follows when none of its files is open any more';
  return {
    table: { scheme, sectorSize, id, warnings: isShown ? warnings : [...warnings, waits] },
    partitions: partitions.map((each) => ({ ...each, content: contentOf(source, each.start, each.size) })),
    content: scheme === null ? contentOf(source, 0, source.size) : null,
  };
}

function inspect(what: InspectedDisk): DiskReport | null {
  const words = new ServingWords(what.words);
  const gate = new Gate(words, what.slot, words.generation);
  try {
    return gate.enter() && words.generation === what.generation ? report(diskOf(what), what) : null;
  } finally {
    gate.leave();
  }
}

parentPort?.on('message', (call: { readonly id: number; readonly what: InspectedDisk } | null) => {
  if (call === null) return parentPort?.close();
  let answer: InspectorAnswer;
  try {
    answer = { id: call.id, report: inspect(call.what) };
  } catch (error) {
    answer = { id: call.id, report: null, error: describeError(error) };
  }
  parentPort?.postMessage(answer);
});
