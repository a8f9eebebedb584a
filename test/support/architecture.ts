// The rules of the source tree as functions over module texts, so that a made-up module can show that a rule bites.
// A module is named by its path below src/, such as "format/qed/image.ts".

import ts from 'typescript';
import { formats, rawFormat } from '../../src/disk/registry.ts';

export interface SourceModule {
  readonly path: string;
  readonly text: string;
}

/** One import of a module: what it names, and whether only types come through it. */
export interface ImportEdge {
  readonly specifier: string;
  readonly typeOnly: boolean;
}

/** Longest source file, in lines. */
export const MAX_LINES = 400;
/** Longest comment that opens a file, in lines. */
const MAX_OPENING_LINES = 6;
/** Most files of one folder, the folders in it aside. */
export const MAX_FILES = 25;

/**
 * Which folders a folder may import, itself aside. A folder stands above all that it imports, so no arrow leads upwards. "format"
 * are the files shared by all formats, "format/mapped" those shared by formats that map the disk through tables, "format/*" the
 * folder of one format; src/cli.ts, the entry, belongs to "cli". "guest/partitions" knows disks as bytes only, so that the tree of a
 * mount can be built on it; the rest of "guest" starts programs.
 */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  bytes: [],
  errors: [],
  native: ['bytes', 'errors'],
  concurrency: ['errors'],
  // remote blocks are shared by threads as metadata is, with the same lock
  host: ['bytes', 'errors', 'native', 'concurrency'],
  codec: ['bytes', 'errors', 'host'],
  format: ['bytes', 'errors', 'concurrency', 'host'],
  'format/mapped': ['bytes', 'errors', 'concurrency', 'host', 'format'],
  'format/*': ['bytes', 'errors', 'concurrency', 'host', 'codec', 'format', 'format/mapped'],
  disk: ['bytes', 'errors', 'concurrency', 'host', 'format'],
  fuse: ['bytes', 'errors', 'native'],
  'guest/partitions': ['bytes', 'errors'],
  filesystem: ['bytes', 'errors', 'concurrency', 'disk', 'guest/partitions'],
  mounts: ['bytes', 'errors', 'native', 'host', 'fuse'],
  guest: ['bytes', 'errors', 'host', 'fuse', 'mounts', 'guest/partitions'],
  // native: flags of threads, the note to systemd, the end of a process whose threads are busy
  daemon: ['bytes', 'errors', 'native', 'host', 'disk', 'fuse', 'filesystem', 'mounts', 'guest', 'guest/partitions'],
  cli: ['bytes', 'errors', 'host', 'disk', 'mounts', 'daemon', 'guest', 'guest/partitions'],
  // src/index.ts: what the package is as a library
  index: ['bytes', 'errors', 'disk'],
};

/** Single files that may import one more folder. */
const EXTRA_IMPORTS: Readonly<Record<string, readonly string[]>> = {
  // the list of formats is the one place that knows them by name
  'disk/registry.ts': ['format/*'],
  // a mountpoint is a path like any other
  'fuse/mount-table.ts': ['host'],
};

/** The files of a folder that other folders may import; of a folder that is not listed they may import every one. */
const DOORS: Readonly<Record<string, readonly string[]>> = {
  native: ['index.ts'],
  'format/*': ['index.ts'],
  disk: ['index.ts'],
  filesystem: ['index.ts'],
  'guest/partitions': ['index.ts'],
  // the mount table alone, for commands that must start fast; and what a filesystem is
  fuse: ['index.ts', 'mount-table.ts', 'filesystem.ts'],
};

/** Files that may import node:fs, beside all of host/. */
const FILESYSTEM_USERS: readonly string[] = [
  // /dev/fuse, the mountpoint and /proc/self/mountinfo are no image files
  'fuse/device.ts',
  'fuse/invalidate.ts',
  'fuse/session.ts',
  'fuse/mount.ts',
  'fuse/unmount.ts',
  'fuse/fusermount.ts',
  'fuse/fuse-native.ts',
  'fuse/mount-table.ts',
  'fuse/request-timeout.ts',
];

/** The list of formats; outside format/ it alone names one. */
const REGISTRY = 'disk/registry.ts';
/** A format's name as a word, and not the end of a file name such as "disk.qed". */
const FORMAT_NAMES = new RegExp(`(?<![\\w./-])(${otherNames()})(?![\\w./])`, 'i');
/** "raw" is an English word, too: it is a format's name as a whole string and behind the options that take one. */
const RAW_NAME = new RegExp(`^${rawFormat.name}$|(?:-[fF]|--format|-O) ${rawFormat.name}\\b`);

function otherNames(): string {
  return formats
    .filter((format) => format !== rawFormat)
    .map(({ name }) => name)
    .join('|');
}

const FILESYSTEM_MODULES = /^(node:)?fs(\/promises)?$/;

/** Every import of a module text: import and export-from statements, dynamic imports, and import() types. */
export function importsOf({ path, text }: SourceModule): ImportEdge[] {
  const file = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);
  const edges: ImportEdge[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) {
      const { moduleSpecifier } = node;
      if (moduleSpecifier !== undefined && ts.isStringLiteral(moduleSpecifier)) {
        edges.push({ specifier: moduleSpecifier.text, typeOnly: isTypeOnly(node) });
      }
    } else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      const [argument] = node.arguments;
      if (argument !== undefined && ts.isStringLiteralLike(argument)) {
        edges.push({ specifier: argument.text, typeOnly: false });
      } else {
        edges.push({ specifier: '<computed>', typeOnly: false });
      }
    } else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) {
      const { literal } = node.argument;
      if (ts.isStringLiteral(literal)) edges.push({ specifier: literal.text, typeOnly: true });
    }
    ts.forEachChild(node, visit);
  };
  visit(file);
  return edges;
}

function isTypeOnly(node: ts.ImportDeclaration | ts.ExportDeclaration): boolean {
  if (ts.isExportDeclaration(node)) return node.isTypeOnly;
  const clause = node.importClause;
  if (clause === undefined) return false;
  if (clause.phaseModifier === ts.SyntaxKind.TypeKeyword) return true;
  const { namedBindings } = clause;
  if (clause.name !== undefined || namedBindings === undefined || !ts.isNamedImports(namedBindings)) return false;
  return namedBindings.elements.length > 0 && namedBindings.elements.every((element) => element.isTypeOnly);
}

/** Every rule that a module breaks, one sentence each. */
export function violationsOf(module: SourceModule): string[] {
  return [...importViolations(module), ...nameViolations(module), ...shapeViolations(module)];
}

/** What others need to know of a format its plug says, so that a new one needs no change of theirs. */
function nameViolations({ path, text }: SourceModule): string[] {
  if (path.startsWith('format/') || path === REGISTRY) return [];
  const named = stringsOf({ path, text }).filter((string) => FORMAT_NAMES.test(string) || RAW_NAME.test(string));
  return named.map((string) => `${path} names a format: "${string}"; ask its plug`);
}

/** The text of every string, and the pieces of every template. */
function stringsOf({ path, text }: SourceModule): string[] {
  const strings: string[] = [];
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) return;
    if (ts.isStringLiteralLike(node) || ts.isTemplateHead(node) || ts.isTemplateMiddleOrTemplateTail(node)) {
      strings.push(node.text);
    }
    ts.forEachChild(node, visit);
  };
  visit(ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true));
  return strings;
}

function importViolations(module: SourceModule): string[] {
  const from = folderOf(module.path);
  const broken: string[] = [];
  for (const { specifier, typeOnly } of importsOf(module)) {
    if (FILESYSTEM_MODULES.test(specifier) && !mayUseFilesystem(module.path)) {
      broken.push(`${module.path} imports ${specifier}; only host/ and the listed files touch the host's file system`);
    }
    if (!specifier.startsWith('.')) continue;
    const target = resolve(module.path, specifier);
    const to = folderOf(target);
    if (!isAllowed(module.path, from, target, typeOnly)) {
      broken.push(`${module.path} imports ${target}; ${from} may not import ${to}`);
    } else if (to !== from && DOORS[generalOf(to)]?.includes(target.slice(to.length + 1)) === false) {
      broken.push(`${module.path} imports ${target}; ${to} is entered by ${DOORS[generalOf(to)]!.join(', ')}`);
    }
  }
  return broken;
}

function isAllowed(path: string, from: string, target: string, typeOnly: boolean): boolean {
  const to = folderOf(target);
  if (to === from) return true;
  // the tree is described in the words of the protocol, and in nothing else of it
  if (from === 'filesystem' && target === 'fuse/filesystem.ts') return typeOnly;
  const allowed = [...(MAY_IMPORT[generalOf(from)] ?? []), ...(EXTRA_IMPORTS[path] ?? [])];
  return allowed.includes(generalOf(to));
}

/** Every rule that the modules break together, one sentence each. */
export function treeViolationsOf(modules: readonly SourceModule[]): string[] {
  return [...fullFolders(modules), ...circlesOf(modules), ...upwardArrows(modules)];
}

function fullFolders(modules: readonly SourceModule[]): string[] {
  const counts = new Map<string, number>();
  for (const { path } of modules) {
    const folder = path.includes('/') ? path.slice(0, path.lastIndexOf('/')) : '.';
    counts.set(folder, (counts.get(folder) ?? 0) + 1);
  }
  return [...counts]
    .filter(([, count]) => count > MAX_FILES)
    .map(([folder, count]) => `${folder} has ${count} files, more than ${MAX_FILES}`);
}

/** Files that lead back to themselves through their imports, types and dynamic ones included; one sentence for each circle. */
function circlesOf(modules: readonly SourceModule[]): string[] {
  const targets = new Map(modules.map((module) => [module.path, targetsOf(module)]));
  const done = new Set<string>();
  const circles: string[] = [];
  const visit = (path: string, way: readonly string[]): void => {
    const start = way.indexOf(path);
    if (start >= 0) circles.push(`${[...way.slice(start), path].join(' -> ')} is a circle`);
    if (start >= 0 || done.has(path)) return;
    for (const target of targets.get(path) ?? []) visit(target, [...way, path]);
    done.add(path);
  };
  for (const path of targets.keys()) visit(path, []);
  return circles;
}

/** Arrows between folders that do not lead to one of an earlier row of the table: by single files that may import more, too. */
function upwardArrows(modules: readonly SourceModule[]): string[] {
  const floors = Object.keys(MAY_IMPORT);
  const floorOf = (path: string): number => floors.indexOf(generalOf(folderOf(path)));
  return modules.flatMap((module) =>
    targetsOf(module)
      .filter((target) => folderOf(target) !== folderOf(module.path) && floorOf(target) >= floorOf(module.path))
      .map((target) => `${module.path} imports ${target}, which is not below it`),
  );
}

function targetsOf(module: SourceModule): string[] {
  const relative = importsOf(module).filter(({ specifier }) => specifier.startsWith('.'));
  return relative.map(({ specifier }) => resolve(module.path, specifier));
}

function shapeViolations({ path, text }: SourceModule): string[] {
  const broken: string[] = [];
  const lines = text.replace(/\n$/, '').split('\n');
  if (lines.length > MAX_LINES) broken.push(`${path} has ${lines.length} lines, more than ${MAX_LINES}`);
  const start = lines[0]?.startsWith('#!') === true ? 1 : 0;
  let opening = 0;
  while (lines[start + opening]?.startsWith('//') === true) opening++;
  // a picture of a layout is set off by an empty comment line and does not count
  const sentence = lines.slice(start, start + opening).indexOf('//');
  const counted = sentence < 0 ? opening : sentence;
  if (counted < 1 || counted > MAX_OPENING_LINES) {
    broken.push(`${path} opens with ${counted} comment lines; 1 to ${MAX_OPENING_LINES} say what it holds`);
  }
  if (path !== 'cli.ts' && /\bprocess\s*\.\s*(exit|reallyExit|abort)\s*\(/.test(text)) {
    broken.push(`${path} ends the process; only cli.ts does`);
  }
  return broken;
}

function mayUseFilesystem(path: string): boolean {
  return folderOf(path) === 'host' || FILESYSTEM_USERS.includes(path);
}

/** Files that have an exception of their own, to be compared with the files that there are. */
export function filesWithExceptions(): string[] {
  return [...Object.keys(EXTRA_IMPORTS), ...FILESYSTEM_USERS];
}

/** "format/qed" for a format's folder, "format" for what they share, "guest/partitions" for the leaf of guest, otherwise the first folder; "cli" for src/cli.ts. */
export function folderOf(path: string): string {
  const parts = path.split('/');
  if (parts[0] === 'format' && parts.length > 2) return `format/${parts[1]}`;
  if (path.startsWith('guest/partitions/')) return 'guest/partitions';
  return parts.length === 1 ? path.replace(/\.ts$/, '') : parts[0]!;
}

function generalOf(folder: string): string {
  return folder.startsWith('format/') && folder !== 'format/mapped' ? 'format/*' : folder;
}

function resolve(from: string, specifier: string): string {
  return new URL(specifier, `file:///${from}`).pathname.slice(1);
}
