// Random requests of many threads on one mounted disk, over the fuse-native transport.

import { testStress } from './stress.ts';

testStress('fuse-native');
