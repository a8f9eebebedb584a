// The VirtualDisk contract of qcow2 disks.

import { testGroup } from './virtual-disk-variants.ts';

testGroup('qcow2');
