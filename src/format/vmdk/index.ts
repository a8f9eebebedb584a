// VMDK, the plug: VMware's format. An image is a descriptor, a text in a file of its own or inside the only extent, and extents, one
// behind the other.

import type { FileEnds, Magic } from '../file-ends.ts';
import type { CheckedFormat } from '../image-format.ts';
import { checkVmdk } from './check/check.ts';
import { createVmdk } from './create.ts';
import { VMDK_CREATE_HELP } from './create-help.ts';
import { inspectVmdk } from './inspect.ts';
import { attachVmdk, openVmdk } from './open.ts';
import { assertVmdkBacking, setVmdkBacking } from './set-backing.ts';

/** Of every version. */
const SESPARSE_START = '\xbe\xba\xfe\xca\0\0\0\0';
/** Each of them is enough. */
const MAGICS: readonly Magic[] = [
  { at: 0, text: 'KDMV' },
  { at: 0, text: 'COWD' },
  { at: 0, text: SESPARSE_START },
  { at: 0, text: '# Disk DescriptorFile', ignoreCase: true },
];
/** A descriptor without its title, which QEMU opens, too. */
const DESCRIPTOR_START = /^(?:#[^\n]*\n| *\r?\n)*version=[1-4]\s*\n/i;

function beginsLikeDescriptor({ head }: FileEnds): boolean {
  return DESCRIPTOR_START.test(Buffer.from(head).toString('latin1'));
}

export const vmdk: CheckedFormat = {
  name: 'vmdk',
  title: 'a VMDK image (VMware)',
  // the extents of a flat image are raw
  usualName: /(?<!-flat|-f\d+)\.vmdk$/i,
  magics: [...MAGICS, { at: 0, text: '#' }, { at: 0, text: 'version=', ignoreCase: true }],
  confirms: (ends) => MAGICS.some((magic) => ends.has(magic)) || beginsLikeDescriptor(ends),
  can: { write: true, resize: true, backing: true, lazyRefcounts: false },
  createHelp: VMDK_CREATE_HELP,
  open: openVmdk,
  attach: attachVmdk,
  create: createVmdk,
  setBacking: setVmdkBacking,
  assertBacking: assertVmdkBacking,
  refusesOtherSize: 'VMware',
  check: checkVmdk,
  inspect: inspectVmdk,
};
