// Power cuts on extents of VMDK images without a descriptor, and on images of several files.

import { describePowerCuts } from './power-cuts.ts';

describePowerCuts(({ slice }) => slice !== 'cuts');
