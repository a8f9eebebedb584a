// The tables of finite state entropy as LZFSE builds them: state -> symbol, and how many bits lead to which next state. A
// symbol of frequency f has f states in a row, whose next states share all states evenly.

import { DamagedData } from '../damaged-data.ts';

/** Entries by state. A number that a symbol stands for is its base plus the value of its extra bits. */
export interface FseTable {
  readonly states: number;
  readonly symbols: Uint8Array;
  /** bits to the next state, without the extra bits of the symbol */
  readonly bits: Uint8Array;
  readonly nextStates: Uint16Array;
}

export function makeTable(states: number): FseTable {
  return { states, symbols: new Uint8Array(states), bits: new Uint8Array(states), nextStates: new Uint16Array(states) };
}

/** Fills `table`. @throws DamagedData unless the frequencies are as many as the states */
export function fillTable({ states, symbols, bits, nextStates }: FseTable, frequencies: Uint16Array): void {
  let state = 0;
  for (let symbol = 0; symbol < frequencies.length; symbol++) {
    const frequency = frequencies[symbol]!;
    if (frequency > states - state) throw wrongSum();
    if (frequency === 0) continue;
    // the states that take one bit more come first
    const most = Math.clz32(frequency) - Math.clz32(states);
    const withMost = (2 * states) / 2 ** most - frequency;
    for (let i = 0; i < frequency; i++, state++) {
      const isFirst = i < withMost;
      symbols[state] = symbol;
      bits[state] = isFirst ? most : most - 1;
      nextStates[state] = isFirst ? ((frequency + i) << most) - states : (i - withMost) << (most - 1);
    }
  }
  if (state !== states) throw wrongSum();
}

function wrongSum(): DamagedData {
  return new DamagedData('has LZFSE frequencies that do not add up');
}
