// VHD, which qemu-img calls vpc, the plug: probe, open, attach, create, check.

import type { CheckedFormat } from '../image-format.ts';
import { checkVpc } from './check/check.ts';
import { createVpc } from './create.ts';
import { VPC_CREATE_HELP } from './create-help.ts';
import { attachVpc, inspectVpc, openVpc } from './open.ts';
import { setVpcBacking } from './set-backing.ts';
import { endsLikeFixedDisk, MAGICS } from './signature.ts';

export const vpc: CheckedFormat = {
  name: 'vpc',
  aliases: ['vhd'],
  title: 'a VHD image',
  usualName: /\.a?vhd$/i,
  magics: MAGICS,
  ownsHead: endsLikeFixedDisk,
  can: { write: true, resize: true, backing: true, lazyRefcounts: false },
  createHelp: VPC_CREATE_HELP,
  open: openVpc,
  attach: attachVpc,
  create: createVpc,
  setBacking: setVpcBacking,
  backingFormats: ['vpc', 'raw'],
  refusesOtherSize: 'Windows',
  check: checkVpc,
  inspect: inspectVpc,
};
