// Power cuts on qcow2 images whose guest data lies in whole clusters of the image file that nobody shares.

import { describePowerCuts } from './power-cuts.ts';

describePowerCuts(({ subject: { name } }) => name.startsWith('qcow2') && !/subclusters|data file|snapshot/.test(name));
