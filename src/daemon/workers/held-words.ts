// The words that tell of requests which are held because the host has no space (-o full=wait). Invariant: a request counts from the
// moment when a thread decides to hold it until it is answered, and its message counts as long.
//
//   0   the policy, a value of POLICY; it only goes from hold to fail
//   1   1 once the waiting room takes requests
//   2   requests that are held
//   3   KiB of their messages
//   4   the turn: changes whenever the waiting room has something to do

const POLICY = { hold: 0, fail: 1 } as const;

const POLICY_WORD = 0;
const ROOM_WORD = 1;
const REQUESTS_WORD = 2;
const KIB_WORD = 3;
const TURN_WORD = 4;
export const HELD_WORDS = 5;

/** Memory for the messages of held requests: a loop device has up to 128 under way, of at most 1.3 MiB. */
export const HELD_KIB_MAX = 256 * 1024;

export class HeldWords {
  private readonly words: Int32Array;

  /** @param words HELD_WORDS of them, zeros at first */
  constructor(words: Int32Array) {
    this.words = words;
  }

  /** From now on nothing is held any more, and what is held gets a last try. */
  giveUp(): void {
    Atomics.store(this.words, POLICY_WORD, POLICY.fail);
    this.wake();
  }

  get isGivenUp(): boolean {
    return Atomics.load(this.words, POLICY_WORD) !== POLICY.hold;
  }

  openRoom(): void {
    Atomics.store(this.words, ROOM_WORD, 1);
  }

  /** Requests that are held now. */
  get requests(): number {
    return Atomics.load(this.words, REQUESTS_WORD);
  }

  /** Counts a request whose message has so many bytes. @returns false if there is no room for it, or no room yet */
  enter(bytes: number): boolean {
    if (Atomics.load(this.words, ROOM_WORD) === 0) return false;
    const kib = kibOf(bytes);
    if (Atomics.add(this.words, KIB_WORD, kib) + kib > HELD_KIB_MAX) {
      Atomics.sub(this.words, KIB_WORD, kib);
      return false;
    }
    Atomics.add(this.words, REQUESTS_WORD, 1);
    return true;
  }

  /** The request is answered. */
  leave(bytes: number): void {
    Atomics.sub(this.words, KIB_WORD, kibOf(bytes));
    Atomics.sub(this.words, REQUESTS_WORD, 1);
  }

  get turn(): number {
    return Atomics.load(this.words, TURN_WORD);
  }

  wake(): void {
    Atomics.add(this.words, TURN_WORD, 1);
    Atomics.notify(this.words, TURN_WORD);
  }

  /** Sleeps until the turn is another than `turn`, or the time is over. */
  sleep(turn: number, limitMs: number): void {
    Atomics.wait(this.words, TURN_WORD, turn, limitMs);
  }
}

/** A message of a few bytes takes more memory than those. */
function kibOf(bytes: number): number {
  return Math.ceil(bytes / 1024) + 1;
}
