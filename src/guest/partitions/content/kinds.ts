// The table of what a partition can contain, by the names of blkid. Invariant: containers come first, because what is inside may show
// through them (a RAID member has the file system of its array at the same place); of several others the first is the answer.

import { describeBitLocker } from './bitlocker.ts';
import { describeExfat } from './exfat.ts';
import { describeFat } from './fat.ts';
import type { Kind } from './kind.ts';
import { describeLvm } from './lvm.ts';
import { describeNtfs } from './ntfs.ts';
import { describeRaidMember } from './raid.ts';
import {
  describeBtrfs,
  describeExt,
  describeIso9660,
  describeLuks,
  describeSquashfs,
  describeSwap,
  describeXfs,
  fixedPlaces,
} from './superblocks.ts';
import { describeZfsMember } from './zfs.ts';

const KIB = 1024;
/** Sizes of pages: the signature of swap stands at the end of the first one. */
const PAGE_SIZES: readonly number[] = [4096, 8192, 16384, 32768, 65536];
const atPageEnds = (bytes: string) => PAGE_SIZES.map((page) => ({ at: page - 10, bytes }));

export const KINDS: readonly Kind[] = [
  { type: 'linux_raid_member', use: 'container', magics: [], describe: describeRaidMember },
  {
    type: 'bcache',
    use: 'container',
    magics: [{ at: 4 * KIB + 24, bytes: '\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81' }],
  },
  { type: 'LVM2_member', use: 'container', magics: [], describe: describeLvm },
  { type: 'crypto_LUKS', use: 'container', magics: [{ at: 0, bytes: 'LUKS\xba\xbe' }], describe: describeLuks },
  { type: 'BitLocker', use: 'container', magics: [], describe: describeBitLocker },
  { type: 'vfat', use: 'filesystem', magics: [], describe: describeFat },
  {
    type: 'swsuspend',
    use: 'container',
    magics: ['S1SUSPEND', 'S2SUSPEND', 'ULSUSPEND', 'LINHIB0001'].flatMap(atPageEnds),
  },
  { type: 'swap', use: 'swap', magics: atPageEnds('SWAPSPACE2'), describe: describeSwap },
  { type: 'xfs', use: 'filesystem', magics: [{ at: 0, bytes: 'XFSB' }], describe: describeXfs },
  { type: 'ext4', use: 'filesystem', magics: [{ at: 0x438, bytes: '\x53\xef' }], describe: describeExt },
  { type: 'btrfs', use: 'filesystem', magics: [{ at: 0x10040, bytes: '_BHRfS_M' }], describe: describeBtrfs },
  { type: 'ntfs', use: 'filesystem', magics: [{ at: 3, bytes: 'NTFS    ' }], describe: describeNtfs },
  { type: 'exfat', use: 'filesystem', magics: [{ at: 3, bytes: 'EXFAT   ' }], describe: describeExfat },
  { type: 'ReFS', use: 'filesystem', magics: [{ at: 3, bytes: 'ReFS\0\0\0\0' }] },
  {
    type: 'jfs',
    use: 'filesystem',
    magics: [{ at: 32 * KIB, bytes: 'JFS1' }],
    describe: fixedPlaces(32 * KIB + 136, 32 * KIB + 152, 16),
  },
  {
    type: 'f2fs',
    use: 'filesystem',
    magics: [{ at: KIB, bytes: '\x10\x20\xf5\xf2' }],
    describe: fixedPlaces(KIB + 108),
  },
  { type: 'squashfs', use: 'filesystem', magics: [{ at: 0, bytes: 'hsqs' }], describe: describeSquashfs },
  {
    type: 'erofs',
    use: 'filesystem',
    magics: [{ at: KIB, bytes: '\xe2\xe1\xf5\xe0' }],
    describe: fixedPlaces(KIB + 48, KIB + 64, 16),
  },
  {
    type: 'hfsplus',
    use: 'filesystem',
    magics: [
      { at: KIB, bytes: 'H+' },
      { at: KIB, bytes: 'HX' },
    ],
  },
  { type: 'apfs', use: 'filesystem', magics: [{ at: 32, bytes: 'NXSB' }], describe: fixedPlaces(72) },
  { type: 'zfs_member', use: 'container', magics: [], describe: describeZfsMember },
  { type: 'iso9660', use: 'filesystem', magics: [{ at: 32 * KIB + 1, bytes: 'CD001' }], describe: describeIso9660 },
];
