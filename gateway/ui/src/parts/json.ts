// JSON as it was written: laid out one value a line, with every number and every name kept to the letter. This browser's
// own reader would round big numbers and drop names that stand twice.

export type Row = {
  depth: number;
  text: string;
  closes?: number; // of a row that opens: which row closes it
  count?: number; // and how many values are in between
};

const token = /\s*("[^"\\]*(?:\\[^][^"\\]*)*"|[{}[\],:]|[^\s,:{}[\]"]+)/y;

// rowsOf lays out a text, if it is JSON.
export function rowsOf(text: string): Row[] | undefined {
  if (!isJSON(text)) return undefined;
  const rows: Row[] = [];
  const opened: { row: number; count: number }[] = [];
  let name = '';
  let last = ''; // a string that may turn out to be a name
  const put = (value: string) => {
    const parent = opened.at(-1);
    if (parent) parent.count++;
    rows.push({ depth: opened.length, text: name + value });
    name = '';
  };
  const flush = () => {
    if (last) put(last);
    last = '';
  };
  token.lastIndex = 0;
  for (let found = token.exec(text); found; found = token.exec(text)) {
    const t = found[1] ?? '';
    if (t === ':') {
      name = `${last}: `;
      last = '';
    } else if (t === ',') {
      flush();
      const row = rows.at(-1);
      if (row) row.text += ',';
    } else if (t === '{' || t === '[') {
      put(t);
      opened.push({ row: rows.length - 1, count: 0 });
    } else if (t === '}' || t === ']') {
      flush();
      close(rows, opened.pop(), t);
    } else if (t.startsWith('"')) {
      last = t;
    } else {
      put(t);
    }
  }
  flush();
  return rows;
}

function close(rows: Row[], opening: { row: number; count: number } | undefined, sign: string) {
  const row = opening && rows[opening.row];
  if (!row) return;
  if (opening.count === 0) {
    row.text += sign;
    return;
  }
  rows.push({ depth: row.depth, text: sign });
  row.closes = rows.length - 1;
  row.count = opening.count;
}

const deepest = 40; // further in, nobody would see the text for its distance from the edge

export const indented = (row: Row) => '  '.repeat(Math.min(row.depth, deepest)) + row.text;

// prettyOf is a text one value a line, if it is JSON.
export const prettyOf = (text: string): string | undefined => rowsOf(text)?.map(indented).join('\n');

function isJSON(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
