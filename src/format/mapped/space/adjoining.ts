// Places in a file that adjoin each other, taken as one: a change of a thousand clusters costs little more than that of one then.

/**
 * Calls `act` with each run of places that follow each other in `places`.
 * @param step from one place to the next of a run
 */
export function eachAdjoining<Place extends number>(
  places: readonly Place[],
  step: number,
  act: (first: Place, count: number) => void,
): void {
  for (let start = 0; start < places.length; ) {
    let end = start + 1;
    while (end < places.length && places[end] === places[end - 1]! + step) end++;
    act(places[start]!, end - start);
    start = end;
  }
}

/** The same of places in any order. */
export function eachAdjoiningInOrder<Place extends number>(
  places: readonly Place[],
  step: number,
  act: (first: Place, count: number) => void,
): void {
  eachAdjoining(
    [...places].sort((one, other) => one - other),
    step,
    act,
  );
}
