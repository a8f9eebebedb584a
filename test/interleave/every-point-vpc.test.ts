// Every point of every situation on VHD images.

import { testEveryPoint } from './every-point.ts';

testEveryPoint('vpc');
