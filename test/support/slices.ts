// The size of every random or repeated proof, in one table: what `ci` takes, for each format where it differs, and what the
// script for the long run takes unless its option says otherwise. The rules are the same in both; a long run sees more of what
// may break them. A new format adds its numbers here.

type ByFormat = Readonly<
  Record<
    | 'raw'
    | 'qed'
    | 'qcow2'
    | 'qcow'
    | 'vdi'
    | 'vmdk'
    | 'bochs'
    | 'cloop'
    | 'dmg'
    | 'parallels'
    | 'sparseimage'
    | 'sparsebundle'
    | 'asif'
    | 'vpc'
    | 'vhdx',
    number
  >
>;
interface Slice {
  readonly ci: number | Partial<ByFormat>;
  readonly long: number;
}

const SLICES = {
  /** powercut.sh: states of the disk for each kind of image; qcow2 has 16 kinds */
  cuts: {
    ci: { raw: 1500, qed: 1500, qcow2: 800, qcow: 800, vdi: 800, vmdk: 400, parallels: 800, vpc: 800, vhdx: 400 },
    long: 10_000,
  },
  /** extents of VMDK images that nothing else makes: states of the disk for each kind, and workloads for each kind of fault */
  extentCuts: { ci: 400, long: 10_000 },
  extentFaults: { ci: 1, long: 20 },
  /** the same for VMDK images of three files */
  fileCuts: { ci: 150, long: 10_000 },
  /** damaged extents of each kind */
  extentFuzz: { ci: 400, long: 20_000 },
  /** commit and rebase: states of both files for each pair of formats */
  commitCuts: { ci: 150, long: 10_000 },
  /** powercut.sh --qemu: states for each kind of image */
  qemuCuts: { ci: 15, long: 300 },
  /** faults.sh: workloads for each kind of image and of fault */
  faults: { ci: 1, long: 20 },
  /** requests of each workload; it runs once for each of its host operations */
  faultSteps: { ci: 8, long: 12 },
  /** model.sh: images of each kind, with 20 operations each on average */
  model: {
    ci: { raw: 60, qed: 60, qcow2: 60, qcow: 40, vdi: 40, vmdk: 40, parallels: 40, vpc: 40, vhdx: 40 },
    long: 1000,
  },
  /** model.sh: how many of them qemu-img sees */
  judged: { ci: { raw: 3, qed: 3, qcow2: 3, qcow: 3, vdi: 3, vmdk: 3, parallels: 3, vpc: 3, vhdx: 3 }, long: 100 },
  /** images of qemu-img under random operations, for each kind */
  interop: { ci: { qcow2: 1 }, long: 20 },
  /** random operations in imgfuse and in QEMU: images for each kind */
  besideQemu: { ci: { qed: 12, qcow2: 4 }, long: 40 },
  /** images of QEMU through a mount: widths of reference counts for each cluster size and feature */
  matrixWidths: { ci: 1, long: 5 },
  /** one of so many of these images */
  matrixStep: { ci: 3, long: 1 },
  /** fuzz.sh: damaged images */
  fuzz: {
    ci: {
      raw: 1000,
      qed: 2000,
      qcow2: 2000,
      qcow: 1500,
      vdi: 1500,
      vmdk: 1500,
      bochs: 1000,
      cloop: 1000,
      dmg: 2000,
      parallels: 1000,
      sparseimage: 1000,
      sparsebundle: 1000,
      asif: 1000,
      vpc: 1500,
      vhdx: 750,
    },
    long: 10_000,
  },
  /** fuzz.sh --format partitions: damaged partition tables */
  fuzzPartitions: { ci: 20_000, long: 200_000 },
  /** npm run stress: rounds of 250 requests a thread */
  stress: { ci: { raw: 4, qed: 4, qcow2: 4, qcow: 4, vdi: 4, vmdk: 4, parallels: 4, vpc: 4, vhdx: 4 }, long: 60 },
  /** fio with checksums: MiB of the disk; one L2 table of its image maps 64 */
  fio: { ci: 96, long: 1024 },
  /** killtest.sh: daemons that are killed under load */
  kills: { ci: 12, long: 52 },
  /** file systems on loop devices over a mounted disk: of ext4, xfs and btrfs */
  guests: { ci: 1, long: 3 },
  /** cycles.sh: mount, write, umount, qemu-img check */
  cycles: { ci: 21, long: 1000 },
  /** attach.sh: attach, write, detach, fsck */
  attachCycles: { ci: 4, long: 200 },
  /** attach.sh: commands and mount processes that are killed or interrupted around an attach */
  attachKills: { ci: 4, long: 100 },
  /** fullhost.sh: times that the host runs full under fio, for each guest file system */
  fullHosts: { ci: 1, long: 50 },
  /** soak.sh: seconds under load */
  soak: { ci: 20, long: 3600 },
  /** interleave.sh: one of so many points of a request, at which another one runs; each situation and image begins with another */
  points: { ci: 3, long: 1 },
  /** drawn-rows.ts: rows of a table of formats that a test on mounts takes, beside those that it always takes */
  drawn: { ci: 2, long: 99 },
  /** threads that fight for one lock: rounds of each */
  lockRounds: { ci: 20_000, long: 1_000_000 },
} as const satisfies Readonly<Record<string, Slice>>;

/**
 * How much of a proof to run: SLICE_NAME in the environment, the long run with SLICE=long, or what CI takes.
 * @param format needed where the table has a number for each
 */
export function sliceOf(name: keyof typeof SLICES, format?: string): number {
  const slice: Slice = SLICES[name];
  const asked = process.env[`SLICE_${name.toUpperCase()}`];
  if (asked !== undefined && asked !== '') return Number(asked);
  if (process.env['SLICE'] === 'long') return slice.long;
  if (typeof slice.ci === 'number') return slice.ci;
  const size = slice.ci[format as keyof ByFormat];
  if (size === undefined) throw new Error(`test/support/slices.ts has no number for ${name} of ${format}`);
  return size;
}
