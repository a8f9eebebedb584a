// Power cuts on qcow2 images with subclusters or with a data file.

import { describePowerCuts } from './power-cuts.ts';

describePowerCuts((name) => /subclusters|data file/.test(name));
