// What a random read of 4 KiB costs in JavaScript alone: the disk of a build, whose reads of the host file are replaced by
// nothing once its tables are cached. Prints nanoseconds a read: the tenth percentile of many short runs, which other work on
// the machine does not disturb.
//
//   translate.mjs DIST IMAGE FORMAT

const READ = 4096;
const RUN = 200;
const RUNS = 2000;

const [dist, image, format] = process.argv.slice(2);
const { openDisk } = await import(`${dist}/disk/open.js`);
const { PosixHostFile } = await import(`${dist}/host/posix-file.js`);

const disk = openDisk(image, { readOnly: false, format, locks: 'none', slots: 3 });
const target = new Uint8Array(READ);
const reads = Math.floor(disk.size() / READ);
let random = 12345;

function read(count) {
  for (let i = 0; i < count; i++) {
    random = (Math.imul(random, 1103515245) + 12345) >>> 0;
    disk.read(target, 0, READ, (random % reads) * READ);
  }
}

for (let at = 0; at < disk.size(); at += 2 ** 20) disk.read(target, 0, READ, at);
PosixHostFile.prototype.read = (_target, _offset, length) => length;
read(RUNS * RUN);
const times = Array.from({ length: RUNS }, () => {
  const begin = process.hrtime.bigint();
  read(RUN);
  return Number(process.hrtime.bigint() - begin) / RUN;
});
times.sort((a, b) => a - b);
console.log(times[RUNS / 10]);
process.exit(0);
