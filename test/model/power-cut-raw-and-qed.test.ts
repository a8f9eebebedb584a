// Power cuts on raw and QED images.

import { describePowerCuts } from './power-cuts.ts';

describePowerCuts((name) => !name.startsWith('qcow2'));
