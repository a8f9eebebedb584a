// Every point of every situation on VDI images.

import { testEveryPoint } from './every-point.ts';

testEveryPoint('vdi');
