// Every point of every situation on QED images.

import { testEveryPoint } from './every-point.ts';

testEveryPoint('qed');
