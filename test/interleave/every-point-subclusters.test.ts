// Every point of every situation on qcow2 with subclusters images.

import { testEveryPoint } from './every-point.ts';

testEveryPoint('subclusters');
