// The Label view: the class or the number of a text, and of each row of a table.

import { requestJson } from "./api.js";
import { formatTable, parseTable } from "./csv.js";
import { byId, formatCount, h, probabilityItems, run } from "./dom.js";
import { page } from "./settings.js";

const BATCH = 64; // rows per request: progress shows often, and the server has texts to batch
const column = byId("column");
const status = byId("rows-status");
let table = null; // {name, format, header, rows}
const predict = (input, signal) => requestJson("/v1/classify", { model: page.model.id, input }, signal);

/** A result as columns of a table: label and probability, or a number. */
function cellsOf({ label, value, probabilities }) {
  const round = (number) => Number(number.toPrecision(6));
  return probabilities ? [label, round(probabilities[label])] : [round(value)];
}

async function predictText(signal) {
  for (const id of ["value", "bars"]) byId(id).replaceChildren();
  const { data: [result] } = await predict([byId("text").value], signal);
  const note = result.truncated ? ` (text longer than ${formatCount(page.model.context_length, "token")})` : "";
  byId("value").textContent = cellsOf(result)[0] + note;
  byId("bars").replaceChildren(...probabilityItems(Object.entries(result.probabilities ?? {}), result.label));
}

async function openTable(file, signal) {
  const { format, rows } = parseTable(await file.arrayBuffer(), file.name);
  const header = rows.shift();
  if (!rows.length) throw new Error(`${file.name} has no rows below a header line.`);
  table = { name: file.name, format, header, rows };
  column.replaceChildren(...header.map((name, i) => h("option", { value: i }, name || `column ${i + 1}`)));
  column.value = header.indexOf(page.model.text_column);
  status.textContent = `${file.name}: choose the column of the text, then Predict rows.`;
  if (column.value) await predictTable(signal);
}

async function predictTable(signal) {
  if (!column.value) throw new Error("Choose a file and the column of the text.");
  const columns = page.model.task === "regress" ? ["prediction"] : ["prediction", "probability"];
  const index = Number(column.value);
  const readable = table.rows.filter((row) => row.length === table.header.length && row[index].trim());
  const cells = new Map(); // by row
  status.textContent = `${table.name}: predicting ${formatCount(table.rows.length, "row")}`;
  try {
    for (let start = 0, size = BATCH; start < readable.length; ) {
      const batch = readable.slice(start, start + size);
      const texts = batch.map((row) => row[index]);
      // The server refuses all texts for one that the model cannot read: fewer at a time, until it is left out.
      const answer = await predict(texts, signal).catch((e) => ([400, 413].includes(e.status) ? null : Promise.reject(e)));
      answer?.data.forEach((result, i) => cells.set(batch[i], cellsOf(result)));
      if (answer || size === 1) start += batch.length;
      size = answer ? Math.min(2 * size, BATCH) : Math.ceil(size / 2);
      byId("progress").value = start / readable.length;
    }
  } finally {
    offerDownload(columns, cells); // also when stopped
  }
}

function offerDownload(columns, cells) {
  const { name, format, header, rows } = table;
  while (columns.some((column) => header.includes(column))) columns = columns.map((column) => `${column}_2`);
  const padding = (row) => header.slice(row.length).fill("");
  const predicted = rows.map((row) => [...row, ...padding(row), ...(cells.get(row) ?? columns.map(() => ""))]);
  const blob = new Blob([formatTable(format, [[...header, ...columns], ...predicted])]);
  const fileName = name.replace(/(\.\w+)?$/, "_predicted$1");
  const link = h("a", { id: "download", href: URL.createObjectURL(blob), download: fileName }, `Download ${fileName}`);
  status.replaceChildren(`${cells.size.toLocaleString("en")} of ${formatCount(rows.length, "row")} predicted. `, link);
}

const open = (files) => files.length && run((signal) => openTable(files[0], signal));
byId("classify").addEventListener("click", () => run(predictText));
byId("predict-rows").addEventListener("click", () => run(predictTable));
byId("file").addEventListener("change", ({ target }) => open(target.files));
for (const type of ["dragover", "drop"]) {
  document.addEventListener(type, (event) => {
    const { files, types } = event.dataTransfer; // no files before they are dropped
    if (types.includes("Files")) event.preventDefault(); // the browser would leave the page for the file
    if (!byId("panel-label").hidden) open(files);
  });
}
