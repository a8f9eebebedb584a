// Random operations on qcow2 images.

import { describeRandomOperations } from './random-operations.ts';

describeRandomOperations((name) => name.startsWith('qcow2'));
