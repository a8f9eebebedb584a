// The encrypt.* options of qemu-img create, which say what LUKS header a new image gets. Values that QEMU does not know are
// refused by name, and so are options that would make an image that QEMU cannot open or that is not safe.

import type { LuksOptions } from '../../../codec/luks.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import { CIPHERS, ENCRYPTION_OPTIONS, HASH_NAMES, IV_GENERATORS, MODES } from './create-help.ts';

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
