// Sizes as qemu-img prints them.

const UNITS = ['', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei'];

/** Three significant digits and a binary unit: "10 MiB", "580 KiB", "0 B". */
export function formatSize(bytes: number): string {
  let value = bytes;
  let index = 0;
  while (value >= 1000 && index < UNITS.length - 1) {
    value /= 1024;
    index++;
  }
  return `${Number(value.toPrecision(3))} ${UNITS[index]}B`;
}
