// Random requests of many threads on one mounted disk, over the kernel transport.

import { testStress } from './stress.ts';

testStress('kernel');
