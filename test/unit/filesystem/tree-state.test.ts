// What the threads of a mount share of the tree: each node's numbers in their own place, and the words behind them.

import { expect, test } from 'vitest';
import { createTree, nodesOf, setTreeReadOnly, writableHandles } from '../../../src/filesystem/index.ts';
import { SharedNode } from '../../../src/filesystem/records.ts';
import { TreeWords } from '../../../src/filesystem/tree-state.ts';

function tree(rootIsFile = false) {
  const disk = { readOnly: false, modifiedMs: () => 2000 };
  return createTree(disk, { rootIsFile, uid: 7, gid: 8, umask: 0o022 });
}

test('a node has its own numbers, and another thread sees what one changes', () => {
  const shared = tree();
  const [root, disk] = nodesOf(shared).map((id) => new SharedNode(shared.records, id));
  const names = ['mode', 'uid', 'gid', 'atimeMs', 'mtimeMs', 'ctimeMs'] as const;
  for (const [index, name] of names.entries()) disk![name] = 1e12 + index;
  const seen = new SharedNode(structuredClone(shared.records), 2);
  expect(names.map((name) => seen[name])).toEqual(names.map((_, index) => 1e12 + index));
  expect([root!.mode, root!.uid, root!.gid]).toEqual([0o040755, 7, 8]);
});

test('a new disk has the owner, the mode and the times that it is given', () => {
  const { atimeMs, ctimeMs, gid, mode, mtimeMs, uid } = new SharedNode(tree(true).records, 1);
  expect({ atimeMs, ctimeMs, gid, mode, mtimeMs, uid }).toEqual({
    ...{ atimeMs: 2000, ctimeMs: 2000, mtimeMs: 2000, mode: 0o100644, uid: 7, gid: 8 },
  });
});

test('a tree that becomes read-only loses its write permission, and gets back what the umask leaves', () => {
  const shared = tree();
  const [words, disk] = [new TreeWords(shared), new SharedNode(shared.records, 2)];
  expect([words.isReadOnly, disk.mode]).toEqual([false, 0o100644]);
  setTreeReadOnly(shared, true);
  expect([words.isReadOnly, disk.mode]).toEqual([true, 0o100444]);
  setTreeReadOnly(shared, false);
  expect([words.isReadOnly, disk.mode]).toEqual([false, 0o100644]);
});

test('the last writable handle that is released is told from the others', () => {
  const shared = tree();
  const words = new TreeWords(shared);
  words.addWritableHandle();
  words.addWritableHandle();
  expect(writableHandles(shared)).toBe(2);
  expect([words.removeWritableHandle(), words.removeWritableHandle()]).toEqual([false, true]);
  expect(writableHandles(shared)).toBe(0);
});

test('pages are stale from the moment that bytes beneath them changed until the kernel dropped them', async () => {
  const words = new TreeWords(tree());
  const waiting = words.stalePages();
  words.noteStalePages();
  const changed = await waiting;
  words.noteStalePages();
  // those that came while the kernel was dropping the first are stale still
  words.noteDropped(changed);
  const later = await words.stalePages();
  expect(later).toBe(changed + 1);
  words.noteDropped(later);
  let isWoken = false;
  const next = words.stalePages().then(() => {
    isWoken = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(isWoken).toBe(false);
  words.noteStalePages();
  await next;
});
