// The engine of a format is a chunk of its own, which is loaded when its plug calls it first; what several engines share lies in
// two more. Invariant: the list of formats loads no engine, so of a format's folder it may use only the modules of the plug before
// somebody calls the plug.

import { existsSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { loadedWith } from './transforms.mjs';

/** What is loaded with the list of formats, because every file is probed and every help listed. */
const OF_THE_PLUG = /\/(?:index|signature|create-help)\.js$/;
const PLUG = /\/format\/[\w-]+\/index\.js$/;

/** Whether an import leads from a plug to its engine. */
export function leadsToEngine(from, to) {
  return PLUG.test(from) && to.startsWith(`${dirname(from)}/`) && !OF_THE_PLUG.test(to);
}

/** A plug whose `open: openQed` is a function that calls openQed: nothing of the engine is looked up before that. */
export const callsEngine = {
  name: 'calls-engine',
  transform(code, id) {
    if (!PLUG.test(id)) return code;
    const imports = [...code.matchAll(/^import \{ (.+) \} from ['"](.+)['"];$/gm)];
    const names = imports.flatMap(([, list, file]) =>
      leadsToEngine(id, join(dirname(id), file)) ? list.split(', ') : [],
    );
    return code.replaceAll(new RegExp(`^( +\\w+: )(${names.join('|')}),$`, 'gm'), '$1(...words) => $2(...words),');
  },
};

/** The modules of each chunk. @param dist the folder of the modules @param loaded those that are loaded without an engine */
export function engineGroups(dist, loaded) {
  const plugOf = (name) => `${dist}format/${name}/index.js`;
  const formats = readdirSync(`${dist}format`).filter((name) => existsSync(plugOf(name)));
  const needs = new Map(formats.map((name) => [name, loadedWith([plugOf(name)])]));
  const modules = new Set(formats.flatMap((name) => [...needs.get(name)]).filter((id) => !loaded.has(id)));
  const usersOf = (id) => formats.filter((name) => needs.get(name).has(id));
  const isMapped = (name) => needs.get(name).has(`${dist}format/mapped/mapped-image.js`);
  const shared = [...modules].filter((id) => usersOf(id).length > 1);
  return {
    codecs: new Set(shared.filter((id) => id.startsWith(`${dist}codec/`))),
    mapped: new Set(shared.filter((id) => usersOf(id).every(isMapped))),
    ...Object.fromEntries(
      formats.map((name) => [
        `format-${name}`,
        new Set([...modules].filter((id) => usersOf(id).every((user) => user === name))),
      ]),
    ),
  };
}
