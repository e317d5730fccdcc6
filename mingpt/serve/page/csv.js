// Tables of delimited text, read and written by the rules of mingpt/data/tables.py.

/** The format of a file and its rows, the header first. Blank lines are left out. Throws an Error if malformed. */
export function parseTable(bytes, fileName) {
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new Error("The file is not UTF-8. Excel writes it as the type CSV UTF-8.");
  }
  const bom = text.startsWith("\ufeff") ? "\ufeff" : "";
  const body = text.slice(bom.length).replace(/^(sep=.)?[\r\n]+/, ""); // sep=; is a line that Excel reads
  const unquoted = body.match(/[^\r\n]*/)[0].replace(/"[^"]*("|$)/g, ""); // of the header
  const count = (delimiter) => unquoted.split(delimiter).length;
  const delimiters = fileName.toLowerCase().endsWith(".tsv") ? ["\t"] : [",", ";", "\t"];
  const delimiter = delimiters.reduce((best, other) => (count(other) > count(best) ? other : best));
  const spaces = unquoted.includes(`${delimiter} `) ? " *" : "";
  return { format: { bom, delimiter }, rows: parseRows(body, delimiter, spaces) };
}

function parseRows(text, delimiter, spaces) {
  const value = `"([^"]*(?:""[^"]*)*)"|(?!")([^${delimiter}\r\n]*)`;
  const field = new RegExp(`${spaces}(?:${value})(${delimiter}|\r\n|\r|\n|$)`, "y");
  const rows = [];
  let row = [];
  while (field.lastIndex < text.length || row.length) {
    const match = field.exec(text);
    if (!match) throw new Error(`Row ${rows.length + 1}: a quote is not closed, or not at the end of a value.`);
    const [, quoted, plain, end] = match;
    row.push(quoted?.replaceAll('""', '"') ?? plain);
    if (end === delimiter) continue;
    if (row.length > 1 || match[0].trim()) rows.push(row);
    row = [];
  }
  return rows;
}

/** The text of a file. Texts are quoted and numbers are not: rows are read back equal. */
export function formatTable({ bom, delimiter }, rows) {
  const formatField = (value) => (typeof value === "number" ? String(value) : `"${value.replaceAll('"', '""')}"`);
  return bom + rows.map((row) => `${row.map(formatField).join(delimiter)}\n`).join("");
}
