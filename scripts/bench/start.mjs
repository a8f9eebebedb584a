// From the command to the first look at the mounted disk.

import { statSync } from 'node:fs';

export async function run(workshop, measurements) {
  const image = workshop.path('start.qed');
  workshop.imgfuse('create', '-f', 'qed', image, '16G');
  await measurements.row({
    section: 'an empty QED image of 16 GiB',
    row: 'command to usable mount',
    unit: 'ms',
    subjects: workshop.builds.map(({ name, cli }) => ({
      name,
      sample: async () => {
        const begin = performance.now();
        const mount = workshop.mountImgfuse(cli, image, workshop.path('start'));
        statSync(mount.file);
        const taken = performance.now() - begin;
        await mount.unmount();
        return taken;
      },
    })),
  });
}
