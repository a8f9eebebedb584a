// What the fuzzer takes apart: valid images, as their bytes or as recipes for qemu-img.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { qemuImg, tryQemu } from './qemu.ts';

export const KIB = 1024;
export const PASSWORD = 'geheim';

/** A valid image to damage, and what belongs to it. */
export interface Subject {
  readonly name: string;
  readonly format: string;
  readonly path: string;
  readonly backing?: string;
  readonly dataFile?: string;
  /** other files by their names in the image, and where the disk of each begins */
  readonly extents?: readonly { readonly name: string; readonly path: string; readonly start: number }[];
  /** which of the extents is damaged; absent: the image file itself */
  readonly damaged?: number;
  readonly password?: string;
  /** one turn out of so many is taken */
  readonly rarity: number;
}

export interface Recipe {
  readonly name: string;
  /** -o of qemu-img create */
  readonly options: string;
  readonly size: number;
  readonly backing?: boolean;
  /** takes long, so that only one turn out of so many is taken */
  readonly rarity?: number;
  readonly commands: readonly string[];
  /** what is done to the image at last */
  readonly finish?: (path: string) => void;
}

export const WRITES = [
  'write -P 1 0 20k',
  'write -P 2 60k 30k',
  'write -z 72k 8k',
  'write -P 3 150k 4k',
  'write -P 4 190k 9k',
];

export function setByte(path: string, at: number, value: number): void {
  const bytes = readFileSync(path);
  bytes[at] = value;
  writeFileSync(path, bytes);
}

export function oneSubject(format: string, folder: string, image: Uint8Array, name = format): Subject {
  const path = join(folder, name.replaceAll(' ', '-'));
  writeFileSync(path, image);
  return { name, format, path, rarity: 1 };
}

/** Images that qemu-img makes. */
export function makeSubjects(format: string, recipes: readonly Recipe[], folder: string): Subject[] {
  const backing = join(folder, 'base.raw');
  writeFileSync(
    backing,
    Uint8Array.from({ length: 230 * KIB }, (_, i) => (i % 50_000 < 30_000 ? 1 + ((i >> 9) % 250) : 0)),
  );
  return recipes.map((recipe, index) => {
    const path = join(folder, `${format}-${index}`);
    const isEncrypted = recipe.options.includes('encrypt');
    const dataFile = recipe.options.endsWith('data_file=') ? `${path}.data` : undefined;
    const secret = isEncrypted ? ['--object', `secret,id=s,data=${PASSWORD}`] : [];
    const options = recipe.options === '' ? [] : ['-o', `${recipe.options}${dataFile ?? ''}`];
    const below = recipe.backing === true ? ['-b', backing, '-F', 'raw'] : [];
    qemuImg('create', '-q', '-f', format, ...secret, ...options, ...below, path, String(recipe.size));
    const node = `driver=${format},file.filename=${path}${isEncrypted ? ',encrypt.key-secret=s' : ''}`;
    const commands = recipe.commands.flatMap((command) => ['-c', command]);
    const { code, output } = tryQemu('qemu-io', '-d', 'unmap', ...secret, '--image-opts', node, ...commands);
    if (code !== 0 || /failed|error/i.test(output)) throw new Error(output);
    recipe.finish?.(path);
    return {
      name: `${format}, ${recipe.name}`,
      format,
      path,
      rarity: recipe.rarity ?? 1,
      ...(recipe.backing === true ? { backing } : {}),
      ...(dataFile === undefined ? {} : { dataFile }),
      ...(isEncrypted ? { password: PASSWORD } : {}),
    };
  });
}
