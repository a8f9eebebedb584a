// Finds the known word that the user meant when he typed an unknown one.

/** Shorter words are near to too many others. */
const MIN_PREFIX = 3;

/** The known word that is nearest to `word`, or undefined if none is near enough to be what was meant. */
export function nearestWord(word: string, known: Iterable<string>): string | undefined {
  const typed = plainForm(word);
  let best: string | undefined;
  let bestDistance = Math.floor((typed.length + 1) / 3) + 1;
  for (const candidate of known) {
    const target = plainForm(candidate);
    // an abbreviation counts as one mistake, however much of the word is left out
    const isStart = typed.length >= MIN_PREFIX && target.startsWith(typed);
    const distance = isStart ? Math.min(1, editDistance(typed, target)) : editDistance(typed, target);
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** The end of a sentence about an unknown word: `; did you mean "x"?`, or nothing. */
export function didYouMean(word: string, known: Iterable<string>): string {
  const nearest = nearestWord(word, known);
  return nearest === undefined ? '' : `; did you mean "${nearest}"?`;
}

/** key-file, key_file and KeyFile are the same mistake. */
function plainForm(word: string): string {
  return word.toLowerCase().replace(/[-_. ]/g, '');
}

/** How many letters have to be inserted, removed, replaced or exchanged with their neighbour (Damerau and Levenshtein). */
export function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (let row = 1; row <= a.length; row++) {
    const current = [row];
    for (let column = 1; column <= b.length; column++) {
      const isSame = a[row - 1] === b[column - 1];
      let cost = Math.min(last[column]! + 1, current[column - 1]! + 1, last[column - 1]! + (isSame ? 0 : 1));
      if (row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1]) {
        cost = Math.min(cost, beforeLast[column - 2]! + 1);
      }
      current.push(cost);
    }
    beforeLast = last;
    last = current;
  }
  return last[b.length]!;
}
