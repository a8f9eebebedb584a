import { spawnSync } from 'node:child_process';
import { rmSync, readFileSync, readdirSync } from 'node:fs';
import { Workshop, cpuSecondsOf } from './workshop.mjs';
import { fio, fill } from './fio.mjs';
const [,, formats, rows='seq', rounds='3', who='both', inplace='alloc', other] = process.argv;
const w = new Workshop({other});
process.on('exit', () => w.cleanUp());
process.on('SIGINT', () => process.exit(1));
const ROWS = { seq: ['--rw=write','--bs=1M','--size=2g'], seq4: ['--rw=write','--bs=4k','--size=128m'], r64: ['--rw=randwrite','--bs=64k','--size=16g','--io_size=1g'], r4: ['--rw=randwrite','--bs=4k','--size=16g','--io_size=64m'] };
const JOB = inplace === 'alloc' ? ROWS : { seq: ['--rw=write','--bs=1M','--size=1g'], r64: ['--rw=randwrite','--bs=64k','--size=1g'], r4: ['--rw=randwrite','--bs=4k','--size=1g','--io_size=128m'], rr4: ['--rw=randread','--bs=4k','--size=1g','--io_size=128m'], };
function pidsOf(image) { // processes that have the image open
  const out=[]; for (const p of readdirSync('/proc')) { if(!/^\d+$/.test(p)) continue; try { for (const f of readdirSync(`/proc/${p}/fd`)) { try { if (spawnSync) { const l = (await_link(`/proc/${p}/fd/${f}`)); if (l===image) { out.push(p); break; } } } catch {} } } catch {} } return out; }
import { readlinkSync } from 'node:fs';
function await_link(x){ return readlinkSync(x); }
for (const format of formats.split(',')) for (const row of rows.split(',')) {
  const res = {};
  for (let r = 0; r < Number(rounds); r++) for (const name of (who==='both'?['imgfuse','QEMU']:who.split(','))) {
    const image = w.path(`x.${format}`);
    w.imgfuse('create','-f',format,image, inplace === 'alloc' ? '16G':'1G');
    const m = name === 'QEMU' ? await w.mountQemu(image, w.path('q'), format) : w.mountImgfuse(w.builds[name==='other'?1:0].cli, image, w.path('i'), format === 'raw' ? ['--format','raw'] : []);
    if (inplace !== 'alloc') fill(m.file, '1g');
    fio; 
    const pids = pidsOf(image);
    const t0 = pids.reduce((a,p)=>a+cpuSecondsOf(p),0); const b = performance.now();
    fio(m.file, JOB[row], 'IOPS', null);
    const t1 = pids.reduce((a,p)=>a+cpuSecondsOf(p),0); const wall=(performance.now()-b)/1000;
    (res[name] ??= []).push([(t1-t0).toFixed(2), wall.toFixed(2)].join('/'));
    await m.unmount(); rmSync(image);
  }
  console.log(format, row, inplace, JSON.stringify(res));
}
process.exit(0);
