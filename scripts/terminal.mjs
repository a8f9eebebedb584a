#!/usr/bin/env node
// Draws the terminal session at the top of README.md: sudo node scripts/terminal.mjs [FILE], default native-notes/terminal.svg.
// Every command runs, in a directory of its own, and what is drawn is what it printed. A command that fails ends the script.

import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));

/** Makes the image of the session: a partition table, a small first partition, and ext4 with a few files in the second one. */
const PREPARATION = `
  imgfuse create -q -f qcow2 vm.qcow2 10G
  mkdir disk && imgfuse mount vm.qcow2 disk
  printf 'size=512M, type=U, name=EFI\\ntype=L, name=root\\n' | sfdisk -q --label gpt disk/disk.raw
  mkfs.ext4 -q -L root disk/partitions/2.raw
  imgfuse unmount disk && rmdir disk
  imgfuse attach --partition 2 vm.qcow2 guest
  mkdir -p guest/etc guest/home guest/usr guest/var && echo web-7 > guest/etc/hostname
  imgfuse detach guest
`;

/** What is shown, in this order. A comment is drawn as it stands. */
const SESSION = [
  '# the files of a virtual machine, read and written',
  'imgfuse attach vm.qcow2 guest --partition 2',
  'cat guest/etc/hostname',
  'echo web-8 > guest/etc/hostname',
  'imgfuse detach guest',
  'qemu-img check vm.qcow2 | head -1',
  '# changes that are thrown away',
  'imgfuse attach vm.qcow2 guest --partition 2 -o snapshot -- rm -r etc',
  'imgfuse attach vm.qcow2 guest --partition 2 -o ro -- ls -m',
  '# the disk and its partitions as plain files, without root',
  'mkdir img && imgfuse mount vm.qcow2 img',
  'ls -m img img/partitions',
  'imgfuse unmount img && echo closed and clean',
];

const FONT_SIZE = 13;
const CHARACTER_WIDTH = 7.83;
const LINE_HEIGHT = 19;
const MARGIN = 18;
const MAX_COLUMNS = 110;

/** @returns what a shell prints for these commands, standard error included */
function run(directory, commands) {
  const { stdout, status } = spawnSync('bash', ['-euo', 'pipefail', '-c', `exec 2>&1\n${commands}`], {
    cwd: directory,
    encoding: 'utf8',
    env: { ...process.env, PATH: `${join(directory, '.bin')}:${process.env.PATH}`, LC_ALL: 'C.UTF-8', NO_COLOR: '1' },
  });
  if (status !== 0) throw new Error(`exit code ${status} of: ${commands}\n${stdout}`);
  return stdout;
}

/** The session as lines of the picture: { kind: 'comment' | 'command' | 'output', text }. */
function record(directory) {
  const lines = [];
  for (const text of SESSION) {
    if (text.startsWith('#')) {
      if (lines.length > 0) lines.push({ kind: 'output', text: '' });
      lines.push({ kind: 'comment', text });
      continue;
    }
    lines.push({ kind: 'command', text });
    const printed = run(directory, text).trimEnd();
    if (printed !== '') lines.push(...printed.split('\n').map((line) => ({ kind: 'output', text: line })));
  }
  return lines.map((line) => ({ ...line, text: line.text.replaceAll(`${directory}/`, '') }));
}

function draw(lines) {
  const columns = Math.min(MAX_COLUMNS, Math.max(...lines.map(({ text }) => text.length + 2)));
  const width = Math.ceil(columns * CHARACTER_WIDTH + 2 * MARGIN);
  const height = lines.length * LINE_HEIGHT + 2 * MARGIN;
  const rows = lines.map(({ kind, text }, index) => {
    const y = MARGIN + (index + 0.75) * LINE_HEIGHT;
    const isCommand = kind === 'command';
    const prompt = isCommand ? `<text class="prompt" x="${MARGIN}" y="${y}">$</text>` : '';
    const x = MARGIN + (isCommand ? 2 * CHARACTER_WIDTH : 0);
    return `  ${prompt}<text class="${kind}" x="${x}" y="${y}">${escapeXml(text)}</text>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">
  <title>A terminal session with imgfuse</title>
  <style>
    rect { fill: #f6f8fa; stroke: #d0d7de; }
    text { font: ${FONT_SIZE}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre; }
    .command { fill: #1f2328; font-weight: 600; } .output { fill: #424a53; } .comment { fill: #6e7781; font-style: italic; } .prompt { fill: #1a7f37; }
    @media (prefers-color-scheme: dark) {
      rect { fill: #161b22; stroke: #30363d; }
      .command { fill: #e6edf3; } .output { fill: #b1bac4; } .comment { fill: #8b949e; } .prompt { fill: #3fb950; }
    }
  </style>
  <rect x="0.5" y="0.5" width="${width - 1}" height="${height - 1}" rx="8"/>
${rows.join('\n')}
</svg>
`;
}

function escapeXml(text) {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

const target = process.argv[2] ?? join(ROOT, 'native-notes/terminal.svg');
const directory = mkdtempSync(join(tmpdir(), 'imgfuse-terminal-'));
try {
  run(directory, 'mkdir .bin guest');
  const command = join(directory, '.bin/imgfuse');
  writeFileSync(command, `#!/bin/sh\nexec '${process.execPath}' '${join(ROOT, 'dist/cli.js')}' "$@"\n`);
  chmodSync(command, 0o755);
  run(directory, PREPARATION);
  writeFileSync(target, draw(record(directory)));
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  // whatever is still attached is given back first
  spawnSync('bash', ['-c', 'for each in vm.qcow2 img disk; do imgfuse detach $each || imgfuse unmount $each; done'], {
    cwd: directory,
    stdio: 'ignore',
    env: { ...process.env, PATH: `${join(directory, '.bin')}:${process.env.PATH}` },
  });
  // never over something that is still mounted
  if (readFileSync('/proc/self/mountinfo', 'utf8').includes(`${directory}/`)) {
    console.error(`something is still mounted below ${directory}, which is left as it is`);
    process.exitCode = 1;
  } else rmSync(directory, { recursive: true, force: true });
}
