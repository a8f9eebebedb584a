// What `imgfuse create -f qcow2` can be told. Every help is listed without an engine, so this file imports none.

import { HASHES, type HashName } from '../../../codec/encryption.ts';
import type { CreateHelp, CreateOption } from '../../create-option.ts';

export const CIPHERS = ['aes-128', 'aes-192', 'aes-256'] as const;
export const MODES = ['xts', 'cbc'] as const;
export const IV_GENERATORS = ['plain', 'plain64', 'essiv'] as const;
export const HASH_NAMES = Object.keys(HASHES) as HashName[];

export const ENCRYPTION_OPTIONS: readonly CreateOption[] = [
  { key: 'encrypt.format', value: 'luks', text: 'encrypts the disk; see --key-file' },
  { key: 'encrypt.cipher-alg', value: CIPHERS.join('|'), text: 'default aes-256' },
  { key: 'encrypt.cipher-mode', value: MODES.join('|'), text: 'default xts' },
  { key: 'encrypt.ivgen-alg', value: IV_GENERATORS.join('|'), text: 'default plain64' },
  { key: 'encrypt.ivgen-hash-alg', value: HASH_NAMES.join('|'), text: 'only with essiv' },
  { key: 'encrypt.hash-alg', value: HASH_NAMES.join('|'), text: 'default sha256' },
  { key: 'encrypt.iter-time', value: 'MS', text: 'how long one password attempt takes; default 2000' },
];

export const QCOW2_CREATE_HELP: CreateHelp = {
  options: [
    { key: 'backing_file', value: 'NAME', text: 'the same as -b' },
    { key: 'backing_fmt', value: 'FORMAT', text: 'the same as -F' },
    { key: 'cluster_size', value: 'SIZE', text: 'a power of two from 512 to 2M; default 64k' },
    { key: 'compat', value: '0.10|1.1', text: 'version 2 or 3, also written v2 and v3; default 1.1' },
    { key: 'compression_type', value: 'zlib|zstd', text: 'of compressed clusters; default zlib' },
    { key: 'data_file', value: 'NAME', text: "puts the disk's data into a second, new file; never overwrites one" },
    { key: 'data_file_raw', value: 'on|off', text: 'the data file is a raw image of the disk; default off' },
    ...ENCRYPTION_OPTIONS,
    { key: 'extended_l2', value: 'on|off', text: 'clusters have 32 subclusters; default off' },
    { key: 'lazy_refcounts', value: 'on|off', text: 'the image is marked dirty while it changes; default off' },
    { key: 'preallocation', value: 'off|metadata|falloc|full', text: 'take space at once; default off' },
    { key: 'refcount_bits', value: 'N', text: '1, 2, 4, 8, 16, 32 or 64; default 16' },
  ],
  examples: [
    ['disk.qcow2 10G', ''],
    ['-o encrypt.format=luks disk.qcow2 10G', 'asks for a password'],
    ['-o data_file=disk.raw,data_file_raw=on disk.qcow2 10G', 'data apart'],
  ],
};
