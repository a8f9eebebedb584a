// What the build changes in the text of modules and chunks. Invariant: every replacement that must happen happens, or the build
// fails: a text that is no longer there is not passed over.

/** Node's own modules that some paths never need, and that take milliseconds to load in Node 20. */
const LAZY = ['child_process', 'crypto', 'net', 'os', 'timers/promises', 'tty', 'url', 'util', 'zlib'];

/** @throws Error if the text has not exactly one match */
export function replaceOnce(text, pattern, replacement) {
  const found = text.match(new RegExp(pattern, `${pattern.flags.replace('g', '')}g`)) ?? [];
  if (found.length !== 1) throw new Error(`${pattern} is ${found.length} times in: ${text.slice(0, 300)}`);
  return text.replace(pattern, replacement);
}

/** The file of a thread: it loads its chunk as the program loads its own. */
export function entryOf(chunk) {
  return `'use strict';\nrequire('./load.cjs').load('${chunk}');\n`;
}

/** Threads begin in files of their own; yargs asks for the working directory, which may be gone, without need. */
export const inBundle = {
  name: 'in-bundle',
  transform(code, id) {
    // extended configuration files are a part of yargs that is not used
    if (id.endsWith('yargs/build/lib/utils/apply-extends.js')) {
      return replaceOnce(code, /import\.meta\.resolve\(config\.extends\)/, 'config.extends');
    }
    if (id.endsWith('yargs/lib/platform-shims/esm.mjs')) {
      return replaceOnce(code, /mainFilename \|\| process\.cwd\(\)/, "'/'");
    }
    return code.replaceAll(/(['"])\.\/((?:keeper|network)-thread|worker)\.js\1/g, "'./$2-entry.cjs'");
  },
};

const WIDTH = `
const isPlain = /^[\\x20-\\x7e]*$/;
let full;
export default function stringWidth(text, options) {
  if (isPlain.test(text)) return text.length;
  full ??= require('string-width').default;
  return full(text, options);
}`;

/** The width of a text in columns. The package compiles tables of emoji when it is loaded, for 50 ms; our texts have none. */
export const asciiWidth = {
  name: 'ascii-width',
  resolveId: (id) => (id === 'string-width' ? '\0ascii-width' : null),
  load: (id) => (id === '\0ascii-width' ? WIDTH : null),
};

/** Loads modules of Node that not every path needs at their first use: `node_net.connect` becomes `node_net().connect`. */
export function lazyBuiltins(text, fileName) {
  let changed = text.replaceAll(/\bimport\("(node:\w+)"\)/g, 'Promise.resolve(require("$1"))');
  for (const [statement, name, module] of text.matchAll(/^let (\w+) = (require\("node:([\w/]+)"\));\n/gm)) {
    if (!LAZY.includes(module.slice('require("node:'.length, -2))) continue;
    changed = changed.replace(statement, '');
    // a default import
    const whole = new RegExp(`^${name} = (\\w+\\.__toESM\\()${name}(, 1\\);)\\n`, 'm').exec(changed);
    changed = changed
      .replace(whole?.[0] ?? statement, '')
      .replaceAll(new RegExp(`\\b${name}\\.(?=\\w)`, 'g'), `${name}().`);
    if (new RegExp(`(?<!["'\`])\\b${name}\\b(?!\\(\\)\\.)`).test(changed))
      throw new Error(`${fileName} uses ${name} as a whole`);
    const loaded = whole === null ? module : `${whole[1]}${module}${whole[2].slice(0, -1)}`;
    changed = `let ${name}_loaded;\nconst ${name} = () => (${name}_loaded ??= ${loaded});\n${changed}`;
  }
  return changed;
}
