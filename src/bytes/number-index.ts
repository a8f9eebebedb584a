// A set of safe integers that gives each its place, 0 for the first that was added. A hostile image can ask for very many
// numbers: a Map ends at 2^24 of them and takes three times the memory. Open addressing with a seeded hash, so that no file
// can be made whose numbers all fall into one bucket.

const SMALLEST = 16;
/** of the buckets, how many may be taken */
const LOAD = 0.7;
const SEED = Math.floor(Math.random() * 2 ** 32);

export class NumberIndex {
  /** how many there are */
  size = 0;
  private numbers = new Float64Array(SMALLEST);
  /** 0, or one more than the place of the number in `numbers` */
  private buckets = new Uint32Array(2 * SMALLEST);

  /** @returns its place, or -1 */
  find(number: number): number {
    return this.buckets[this.bucketOf(number)]! - 1;
  }

  /** @returns its place, whether it is new or not */
  add(number: number): number {
    const bucket = this.bucketOf(number);
    const known = this.buckets[bucket]!;
    if (known !== 0) return known - 1;
    const place = this.size++;
    this.numbers = withRoom(this.numbers, place);
    this.numbers[place] = number;
    this.buckets[bucket] = place + 1;
    if (this.size > this.buckets.length * LOAD) this.grow();
    return place;
  }

  at(place: number): number {
    return this.numbers[place]!;
  }

  /** All of them, ascending. */
  sorted(): Float64Array {
    return this.numbers.slice(0, this.size).sort();
  }

  /** Where the number is, or where it would be. */
  private bucketOf(number: number): number {
    const { buckets, numbers } = this;
    const last = buckets.length - 1;
    for (let bucket = hash(number) & last; ; bucket = (bucket + 1) & last) {
      const taken = buckets[bucket]!;
      if (taken === 0 || numbers[taken - 1] === number) return bucket;
    }
  }

  private grow(): void {
    const { size } = this;
    this.buckets = new Uint32Array(this.buckets.length * 2);
    for (let place = 0; place < size; place++) this.buckets[this.bucketOf(this.numbers[place]!)] = place + 1;
  }
}

/** The array, or a longer copy when it has no element `index` yet. */
export function withRoom(array: Float64Array<ArrayBuffer>, index: number): Float64Array<ArrayBuffer> {
  if (index < array.length) return array;
  const longer = new Float64Array(Math.max(SMALLEST, Math.ceil(array.length * 1.5)));
  longer.set(array);
  return longer;
}

/** How many of the ascending numbers are below `limit`. */
export function countBelow(numbers: Float64Array, limit: number): number {
  let low = 0;
  let high = numbers.length;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (numbers[middle]! < limit) low = middle + 1;
    else high = middle;
  }
  return low;
}

function hash(number: number): number {
  const high = (number / 2 ** 32) | 0;
  let mixed = mix((number | 0) ^ SEED);
  if (high !== 0) mixed = mix(mixed ^ high);
  return mixed;
}

/** Each bit of the result depends on all bits. */
function mix(bits: number): number {
  let mixed = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}
