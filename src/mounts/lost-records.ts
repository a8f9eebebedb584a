// Finds records through the mount processes, which hold their record and their socket open. It serves mounts whose files in the
// runtime directory were removed, or lie where this process does not look (another IMGFUSE_RUNTIME_DIR, another mount
// namespace). Invariant: a record is trusted only about the process that holds it and about that user's mounts.

import { processIds, processName, processOwner, processStartTime } from '../host/processes.ts';
import { linkTarget, namesIn } from '../host/small-files.ts';
import { ownUid, parseRecord, type StoredRecord } from './runtime-directory.ts';

/** Matches the file names of runtime-directory.ts as /proc shows them. */
const HELD_NAME = /^(.*\/\d+-[0-9a-f]{4})\.(json|sock)(?: \(deleted\))?$/;

/** The records that running mount processes hold. Root sees those of every user, others see their own. */
export function recordsOfProcesses(): StoredRecord[] {
  const uid = ownUid();
  const records: StoredRecord[] = [];
  for (const pid of processIds()) {
    if (!processName(pid).startsWith('imgfuse')) continue;
    const owner = processOwner(pid);
    if (owner === null || (uid !== 0 && owner !== uid)) continue;
    records.push(...recordsOf(pid, owner));
  }
  return records;
}

/** Whether a record was found through its process instead of in a runtime directory. */
export function isHeld({ recordPath }: StoredRecord): boolean {
  return recordPath.startsWith('/proc/');
}

function recordsOf(pid: number, owner: number): StoredRecord[] {
  const processStart = processStartTime(pid);
  const descriptors = namesIn(`/proc/${pid}/fd`).map((fd) => `/proc/${pid}/fd/${fd}`);
  const names = descriptors.map((path) => HELD_NAME.exec(linkTarget(path) ?? ''));
  const records: StoredRecord[] = [];
  names.forEach((name, index) => {
    if (name?.[2] !== 'json' || processStart === null) return;
    const socket = names.findIndex((other) => other?.[1] === name[1] && other?.[2] === 'sock');
    const recordPath = descriptors[index]!;
    const record = socket < 0 ? null : parseRecord(recordPath, owner);
    if (record === null) return;
    // a process in its own PID namespace records the PID that it has there
    const itself = { pid, processStart, owner, alive: true };
    const files = { recordPath, socketPath: descriptors[socket]!, logPath: `${name[1]}.log` };
    records.push({ ...record, ...itself, ...files });
  });
  return records;
}
