// The encrypt.* options of qemu-img create, which say what LUKS header a new image gets. Values that QEMU does not know are
// refused by name, and so are options that would make an image that QEMU cannot open or that is not safe.

import { HASHES, type HashName } from '../../../codec/encryption.ts';
import type { LuksOptions } from '../../../codec/luks.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { CreateOption } from '../../create-option.ts';

const CIPHERS = ['aes-128', 'aes-192', 'aes-256'] as const;
const MODES = ['xts', 'cbc'] as const;
const IV_GENERATORS = ['plain', 'plain64', 'essiv'] as const;
const HASH_NAMES = Object.keys(HASHES) as HashName[];

export const ENCRYPTION_OPTIONS: readonly CreateOption[] = [
  { key: 'encrypt.format', value: 'luks', text: 'encrypts the disk; see --key-file' },
  { key: 'encrypt.cipher-alg', value: CIPHERS.join('|'), text: 'default aes-256' },
  { key: 'encrypt.cipher-mode', value: MODES.join('|'), text: 'default xts' },
  { key: 'encrypt.ivgen-alg', value: IV_GENERATORS.join('|'), text: 'default plain64' },
  { key: 'encrypt.ivgen-hash-alg', value: HASH_NAMES.join('|'), text: 'only with essiv' },
  { key: 'encrypt.hash-alg', value: HASH_NAMES.join('|'), text: 'default sha256' },
  { key: 'encrypt.iter-time', value: 'MS', text: 'how long one password attempt takes; default 2000' },
];

/** @returns null for an image without encryption @throws ImgfuseError usage, unsupported */
export function parseEncryption(options: ReadonlyMap<string, string>): LuksOptions | null {
  const given = ENCRYPTION_OPTIONS.map(({ key }) => key).filter((key) => options.has(key));
  refuseSecrets(options);
  if (given.length === 0) return null;
  const format = options.get('encrypt.format');
  if (format === undefined) throw usage(`${given[0]} is given without encrypt.format=luks`);
  if (format === 'aes') throw legacy('encrypt.format=aes');
  if (format !== 'luks') throw usage(`encrypt.format=${format} is not valid; use luks`);
  const cipherAlg = choice(options, 'encrypt.cipher-alg', CIPHERS);
  const cipherMode = choice(options, 'encrypt.cipher-mode', MODES);
  const ivgenAlg = choice(options, 'encrypt.ivgen-alg', IV_GENERATORS);
  const ivgenHashAlg = choice(options, 'encrypt.ivgen-hash-alg', HASH_NAMES);
  const hashAlg = choice(options, 'encrypt.hash-alg', HASH_NAMES);
  const iterTime = options.get('encrypt.iter-time');
  if (ivgenHashAlg !== undefined && ivgenAlg !== 'essiv') {
    throw usage(`encrypt.ivgen-hash-alg=${ivgenHashAlg} belongs to encrypt.ivgen-alg=essiv`);
  }
  if (iterTime !== undefined && !/^\d{1,9}$/.test(iterTime)) {
    throw usage(`encrypt.iter-time=${iterTime} is not valid; give milliseconds, such as 2000`);
  }
  return {
    ...(cipherAlg === undefined ? {} : { cipherAlg }),
    ...(cipherMode === undefined ? {} : { cipherMode }),
    ...(ivgenAlg === undefined ? {} : { ivgenAlg }),
    ...(ivgenHashAlg === undefined ? {} : { ivgenHashAlg }),
    ...(hashAlg === undefined ? {} : { hashAlg }),
    ...(iterTime === undefined ? {} : { iterTimeMs: Number(iterTime) }),
  };
}

function refuseSecrets(options: ReadonlyMap<string, string>): void {
  const secret = options.get('encrypt.key-secret');
  if (secret !== undefined) {
    throw usage(
      `encrypt.key-secret=${secret} names an object of QEMU, which imgfuse does not have; give the password with --key-file, ` +
        '--key-env or at the prompt',
    );
  }
  const old = options.get('encryption');
  if (old !== undefined && !['off', 'no', 'false', 'n'].includes(old)) throw legacy(`encryption=${old}`);
}

function legacy(option: string): ImgfuseError {
  return new ImgfuseError(
    'unsupported',
    `${option} would make an image with the legacy AES encryption, which is weak and which QEMU no longer opens for virtual ` +
      'machines; use encrypt.format=luks',
  );
}

function choice<T extends string>(
  options: ReadonlyMap<string, string>,
  key: string,
  values: readonly T[],
): T | undefined {
  const text = options.get(key);
  if (text === undefined) return undefined;
  const value = values.find((known) => known === text);
  if (value === undefined) throw usage(`${key}=${text} is not valid; use ${values.join(', ')}`);
  return value;
}

function usage(sentence: string): ImgfuseError {
  return new ImgfuseError('usage', sentence);
}
