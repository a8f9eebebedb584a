// Every point of every situation on qcow2 images.

import { testEveryPoint } from './every-point.ts';

testEveryPoint('qcow2');
