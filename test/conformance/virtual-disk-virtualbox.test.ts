// The VirtualDisk contract of VDI, qcow, Parallels and VHDX disks.

import { testGroup } from './virtual-disk-variants.ts';

testGroup('virtualbox');
