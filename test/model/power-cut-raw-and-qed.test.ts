// Power cuts on images of every format but qcow2.

import { describePowerCuts } from './power-cuts.ts';

describePowerCuts(({ slice, subject }) => slice === 'cuts' && !subject.name.startsWith('qcow2'));
