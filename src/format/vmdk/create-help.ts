// What `imgfuse create -f vmdk` can be told. Every help is listed without an engine, so this file imports none.

import type { CreateHelp } from '../create-option.ts';

export const SUBFORMATS = ['monolithicSparse', 'monolithicFlat', 'twoGbMaxExtentSparse', 'twoGbMaxExtentFlat'] as const;
export const ADAPTERS = ['ide', 'buslogic', 'lsilogic', 'legacyESX'] as const;

export const VMDK_CREATE_HELP: CreateHelp = {
  options: [
    { key: 'adapter_type', value: ADAPTERS.join('|'), text: 'controller that a guest boots from; default ide' },
    { key: 'backing_file', value: 'NAME', text: 'the same as -b' },
    { key: 'backing_fmt', value: 'FORMAT', text: 'the same as -F' },
    { key: 'compat6', value: 'on|off', text: 'hwversion=6; default off' },
    { key: 'grain_size', value: 'SIZE', text: 'a power of two from 4k to 1G; default 64k' },
    { key: 'hwversion', value: 'N', text: 'version of the virtual hardware; default 4' },
    { key: 'subformat', value: SUBFORMATS.join('|'), text: 'default monolithicSparse' },
    { key: 'toolsversion', value: 'N', text: "version of the guest's tools; default 2147483647, unknown" },
    {
      key: 'zeroed_grain',
      value: 'on|off',
      text: 'discards are cheap, and VirtualBox does not open the image; default off',
    },
  ],
  examples: [
    ['disk.vmdk 10G', ''],
    ['-o subformat=monolithicFlat disk.vmdk 10G', 'the disk itself is disk-flat.vmdk'],
    ['-b base.vmdk -F vmdk child.vmdk', 'changes go to child.vmdk'],
  ],
};
