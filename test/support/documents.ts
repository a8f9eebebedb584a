// What a document names: links, headings, files and folders of the repository, npm commands. Functions over texts, so that a
// made-up document can show that each of them bites. A document is named by its path from the root of the repository.

import { posix } from 'node:path';

export interface Document {
  readonly path: string;
  readonly text: string;
}

/** All that a document may point to. */
export interface Repository {
  /** The files, by their paths from the root. */
  readonly files: readonly string[];
  readonly documents: readonly Document[];
  /** What `npm run` knows. */
  readonly commands: readonly string[];
}

/** A word that ends like this is the name or the path of a file of the repository. */
const FILE_NAME = /^[\w.*<>/-]+\.(?:ts|mjs|sh|service|md)$/;
/** The folders that paths start from; any other path may start at a folder below them. */
const ROOTS = ['src', 'test', 'scripts', 'native-notes'];
/** What may be left off the name of a test or a note. */
const OPTIONAL_ENDINGS = ['', '.test.ts', '.ts', '.md'];

/** One sentence for each thing that `document` points to and that is not there. */
export function missingIn(document: Document, repository: Repository): string[] {
  const text = document.path.endsWith('.1') ? withoutRoff(document.text) : document.text;
  const folders = foldersOf(repository.files);
  const names = [...repository.files, ...folders];
  return [
    ...missingLinks({ path: document.path, text }, repository),
    ...[...new Set(pathsIn(text, folders))]
      .filter((path) => !exists(path, names))
      .map((path) => `${document.path} names ${path}`),
    ...[...text.matchAll(/npm run (?:--silent )?([\w-]+)/g)]
      .filter(([, name]) => !repository.commands.includes(name!))
      .map(([command]) => `${document.path} names ${command}`),
  ];
}

function withoutRoff(text: string): string {
  return text.replaceAll('\\-', '-').replaceAll(/\\f[BIR]/g, '');
}

function missingLinks({ path, text }: Document, { files, documents }: Repository): string[] {
  const targets = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target]) => target!);
  return targets
    .filter((target) => !/^https?:/.test(target))
    .filter((target) => {
      const [file, heading] = target.split('#') as [string, string?];
      const to = file === '' ? path : posix.join(posix.dirname(path), file);
      if (!files.includes(to) && !foldersOf(files).has(to.replace(/\/$/, ''))) return true;
      const linked = documents.find((each) => each.path === to);
      return heading !== undefined && (linked === undefined || !headingsOf(linked.text).includes(heading));
    })
    .map((target) => `${path} links to ${target}`);
}

/** The anchors of a Markdown text, as GitHub makes them. */
function headingsOf(text: string): string[] {
  return [...text.replaceAll(/^```[\s\S]*?^```/gm, '').matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replaceAll(/[^\w\s-]/g, '')
      .trim()
      .replaceAll(' ', '-'),
  );
}

/**
 * The paths that stand in a text, in code or not: names of source files, and what starts with a folder of the repository.
 * Absolute paths and URLs are those of other places.
 */
function pathsIn(text: string, folders: ReadonlySet<string>): string[] {
  const folderNames = new Set([...folders].map((folder) => posix.basename(folder)));
  const words = text.replaceAll(/\]\([^)]*\)/g, ']').match(/[^\s`"'()[\]|,;:]+/g) ?? [];
  return words
    .map((word) => word.replace(/^\.\//, '').replace(/[.?!]+$/, ''))
    .map((word) => word.replace(/^dist\/(.*)\.js$/, 'src/$1.ts'))
    .filter((word) => !word.startsWith('/') && !word.includes('='))
    .filter((word) => FILE_NAME.test(word) || (word.includes('/') && folderNames.has(word.split('/')[0]!)));
}

function exists(path: string, names: readonly string[]): boolean {
  const pattern = path
    .replace(/\/$/, '')
    .replaceAll(/FORMAT|<\w+>/g, '*')
    .replaceAll(/[.+?^${}()|[\]\\]/g, '\\$&')
    .replaceAll('*', '[^/]*');
  const start = ROOTS.includes(path.split('/')[0]!) ? '^' : '(?:^|/)';
  const wanted = new RegExp(
    `${start}${pattern}(?:${OPTIONAL_ENDINGS.map((end) => end.replaceAll('.', '\\.')).join('|')})$`,
  );
  return names.some((name) => wanted.test(name));
}

function foldersOf(files: readonly string[]): Set<string> {
  const folders = new Set<string>();
  for (const file of files) {
    for (let folder = posix.dirname(file); folder !== '.'; folder = posix.dirname(folder)) folders.add(folder);
  }
  return folders;
}
