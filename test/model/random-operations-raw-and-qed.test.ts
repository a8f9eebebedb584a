// Random operations on raw and QED images.

import { describeRandomOperations } from './random-operations.ts';

describeRandomOperations((name) => !name.startsWith('qcow2'));
