// Wraps text to the width of a terminal.

/** Longer lines are hard to read. */
const COLUMNS_MAX = 120;
/** Without a terminal, as for a manual page. */
const COLUMNS_DEFAULT = 80;
/** A narrower terminal cannot show an option and its text side by side. */
const COLUMNS_MIN = 20;

/** A longer term gets its own line. */
const TERM_WIDTH_MAX = 30;
const INDENT = '  ';

/** The width of the terminal, by stdout or by stderr: "imgfuse --help | less". */
export function helpWidth(): number {
  const columns = process.stdout.columns ?? process.stderr.columns ?? COLUMNS_DEFAULT;
  return Math.min(COLUMNS_MAX, Math.max(COLUMNS_MIN, columns || COLUMNS_DEFAULT));
}

/** Terms with their texts beside them, in lines of at most `width` columns; on a narrow terminal the texts go below. */
export function layOut(rows: readonly (readonly [term: string, text: string])[], width: number): string {
  const column = Math.max(...rows.map(([term]) => (term.length > TERM_WIDTH_MAX ? 0 : term.length))) + 4;
  const start = width < 2 * column ? 6 : column;
  return rows
    .flatMap(([term, text]) => {
      const [first = '', ...more] = wrapText(text, width - start);
      const below = more.map((line) => ' '.repeat(start) + line);
      if (term.length + 4 <= start) return [INDENT + term.padEnd(start - 2) + first, ...below];
      const terms = wrapText(term, width - INDENT.length).map((line) => INDENT + line);
      return [...terms, ' '.repeat(start) + first, ...below];
    })
    .join('\n');
}

/** Breaks a text into lines of at most `width` columns, never inside a word. */
export function wrapText(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = '';
    }
    line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line];
}
