// Every point of every situation on VMDK images.

import { testEveryPoint } from './every-point.ts';

testEveryPoint('vmdk');
