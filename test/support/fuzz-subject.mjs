// A valid image in memory, and its damaged copies, in the process of fuzz-child.mjs.

import { readFileSync } from 'node:fs';
import { MutantKey } from './fuzz-known.mjs';
import { mutate, PLACES } from './fuzz-mutants.mjs';

const dist = new URL('../../dist/', import.meta.url);
const { ImgfuseError } = await import(new URL('errors/index.js', dist));
const { formatByName, rawFormat } = await import(new URL('disk/registry.js', dist));
const { MemoryHostFile } = await import(process.argv[2]);

/** The other files of an image. A data file has any name, which is null; extents have theirs. */
class Beside {
  constructor(named) {
    this.named = named;
  }

  get files() {
    return this.named.map(([, file]) => file);
  }

  opener = (name) => {
    const found = this.named.find(([known]) => known === null || known === name);
    if (found === undefined) throw new ImgfuseError('permission', `no file ${name} is allowed here`);
    return found[1];
  };

  map(change) {
    return new Beside(this.named.map(([name, file]) => [name, change(file)]));
  }

  with(index, file) {
    return new Beside(this.named.map((each, i) => (i === index ? [each[0], file] : each)));
  }
}

export class Subject {
  /** @param number which of the subjects of its format */
  constructor(description, number) {
    Object.assign(this, description);
    this.number = number;
    this.plug = formatByName(this.format);
    const part = this.damaged === undefined ? null : this.extents[this.damaged];
    /** what is damaged: the image file, or an extent of it */
    this.image = readFileSync(part?.path ?? this.path);
    /** as that but for the mutant under way */
    this.mutable = Buffer.from(this.image);
    this.victim = new MemoryHostFile(this.image, part === null ? undefined : `/${part.name}`);
    this.file = part === null ? this.victim : new MemoryHostFile(readFileSync(this.path));
    this.backingFile = this.backing === undefined ? null : new MemoryHostFile(readFileSync(this.backing), '/base');
    this.beside = new Beside(this.otherFiles());
    this.map = PLACES[this.format](this.image);
    if (part !== null) moveBy(part.start, this.map.places);
    this.map.byKind = groupByKind(this.map.places);
    const opened = this.open(this.file.clone(true), true);
    this.content = Buffer.alloc(opened.virtualSize());
    opened.read(this.content, 0, this.content.length, 0);
  }

  otherFiles() {
    if (this.dataFile !== undefined) return [[null, new MemoryHostFile(readFileSync(this.dataFile), '/data')]];
    return (this.extents ?? []).map(({ name, path }) => [name, new MemoryHostFile(readFileSync(path), `/${name}`)]);
  }

  /** @param beside the other files of the image */
  open(file, readOnly, beside = this.beside.map((each) => each.clone()), closedFacts = undefined) {
    return this.plug.open(file, {
      readOnly,
      closedFacts,
      openBacking: () => {
        if (this.backingFile === null) throw new ImgfuseError('permission', 'no backing file is allowed here');
        return rawFormat.open(this.backingFile.clone(true), { ...options(), readOnly: true });
      },
      openExtent: beside.opener,
      password: () => {
        if (this.password === undefined) throw new ImgfuseError('permission', 'no password');
        return new TextEncoder().encode(this.password);
      },
      ...options(),
    });
  }

  /**
   * Damage, with the bytes that it leaves in each field. Drawing it takes a hundredth of the time of judging it.
   * @returns its key, which is the same for equal damage @param turn another one makes another key
   */
  draw(random, turn) {
    const { length, fields, ...mutant } = mutate(this.mutable, this.map, random);
    const key = new MutantKey();
    for (const word of [this.number, turn, length, mutant.mustOpen ? 1 : 0]) key.add(word);
    if (fields.length > 1) fields.sort((a, b) => a.at - b.at || a.width - b.width);
    const bytes = [];
    let last = null;
    for (const { at, width } of fields) {
      // a field that was damaged twice has its last value
      if (last !== null && last.at === at && last.width === width) continue;
      last = { at, width };
      key.add(at);
      for (let done = 0; done < width; done++) key.add(this.mutable[at + done]);
      bytes.push({ at, value: Buffer.from(this.mutable.subarray(at, at + width)) });
    }
    for (const { at, width } of fields) this.image.copy(this.mutable, at, at, at + width);
    return { key: key.end(), length, bytes, ...mutant };
  }

  /** The image with damage. @returns its files, what was done, and what it may change */
  mutant({ length, bytes, ...mutant }) {
    const file = this.victim.clone();
    for (const { at, value } of bytes) file.write(value, 0, value.length, at);
    if (length < this.image.length) file.truncate(length);
    if (this.damaged === undefined) return { file, beside: this.beside, ...mutant };
    return { file: this.file, beside: this.beside.with(this.damaged, file), ...mutant };
  }
}

/** The disk of an extent begins inside that of the image. */
function moveBy(start, places) {
  for (const place of places) {
    if (Array.isArray(place.affects)) place.affects = place.affects.map(([from, to]) => [start + from, start + to]);
  }
}

function options() {
  return { log: () => undefined, tableCacheBytes: 16 * 1024, slots: 1, probed: false, wantsSnapshots: true };
}

function groupByKind(places) {
  const groups = { header: [], table: [], pointer: [], counter: [], data: [], other: [] };
  for (const place of places) groups[place.kind].push(place);
  return groups;
}
