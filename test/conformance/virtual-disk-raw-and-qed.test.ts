// The VirtualDisk contract of raw and QED disks.

import { testGroup } from './virtual-disk-variants.ts';

testGroup('raw-and-qed');
