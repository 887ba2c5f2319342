// Blocks of a document become elements: paragraphs, tables, drawings with their downloads.
"use strict";

const DRAWN = { bars: drawBars, intervals: drawIntervals, curves: drawCurves, histogram: drawHistogram, graph: drawGraph, square: drawSquare };

// What a drawing shows, as a table: for CSV, and for who cannot see it.
const TABLES = {
  bars: (block) => [["label", "value", "shown"], block.rows.map((row) => [row.label, row.value, row.text])],
  intervals: (block) => [["method", "percent", "low", "high"], block.rows.map((row) => [row.label, row.value, row.low ?? "", row.high ?? ""])],
  curves: (block) => [["series", block.x_title, block.y_title], block.series.flatMap((one) => one.x.map((x, i) => [one.name, x, one.y[i] ?? ""]))],
  histogram: (block) => [["series", "from", "to", "count"], block.series.flatMap((one) => one.counts.map((count, i) => [one.name, i / one.counts.length, (i + 1) / one.counts.length, count]))],
  graph: (block) => [["from", "to", "difference", "standard error", "support"], block.edges.map((edge) => [edge.source, edge.target, edge.difference, edge.error ?? "", edge.support])],
  square: (block) => [["from", "to", { share: "probability", ratio: "log2 ratio", difference: "difference" }[block.scale], "standard error", "support", "band"],
    block.states.flatMap((from, i) => block.states.map((to, j) => [from, to, block.values[i][j] ?? "", block.errors?.[i]?.[j] ?? "", block.support[i][j], block.bands?.[i]?.[j] ?? ""]))],
};

function drawBlock(block) {
  if (DRAWN[block.kind]) return figure(block);
  return { text: paragraph, cards, facts, listing, grid }[block.kind](block);
}

function paragraph(block) {
  return h("p", { class: block.quiet ? "note" : "lead" }, block.text);
}

function cards(block) {
  if (!block.rows?.length) return null;
  return h("div", { class: "cards" }, block.rows.map(([name, value, note]) =>
    h("div", { class: "card" }, h("div", { class: "name" }, name), h("div", { class: "figure" }, value), h("div", { class: "note" }, note))));
}

function facts(block) {
  return h("div", { class: "card" }, h("h4", {}, block.title),
    h("dl", {}, (block.rows ?? []).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])));
}

function listing(block) {
  return h("details", { class: "card" }, h("summary", {}, block.title),
    h("div", { class: "tools" }, button("Copy", `Copy ${block.title}`, () => navigator.clipboard?.writeText(block.text).then(() => say("copied")))),
    h("pre", { tabindex: "0" }, block.text));
}

const isNumber = (text) => /^[+\-−]?[×\d.]/.test(text);

// Columns of numbers stand to the right: those where every cell that says something begins with a digit.
function numericColumns(head, rows) {
  return head.map((_, column) => {
    const said = rows.map((row) => String(row[column] ?? "")).filter((text) => text && text !== "–");
    return said.length > 0 && said.every(isNumber);
  });
}

function table(head, rows, { title, published = [] }) {
  const numeric = numericColumns(head, rows);
  const kind = (column) => (numeric[column] ? "n" : null);
  const body = rows.map((row, i) => h("tr", { class: published.includes(i) ? "published" : null }, row.map((cell, column) =>
    column === 0 ? h("th", { scope: "row" }, cell) : h("td", { class: kind(column) }, cell))));
  return h("table", {}, h("caption", { class: "unseen" }, title),
    h("thead", {}, h("tr", {}, head.map((name, column) => h("th", { scope: "col", class: kind(column) }, name)))), h("tbody", {}, body));
}

function grid(block) {
  const rows = block.rows ?? [];
  const tools = h("div", { class: "tools" }, button("CSV", `Download ${block.title} as CSV`, () => download(`${block.title}.csv`, toCsv(block.head, rows), "text/csv")));
  const inner = [block.note && h("p", { class: "note" }, block.note), rows.length ? scroller(table(block.head, rows, block), `${block.title}, table`) : h("p", { class: "note" }, "No rows.")];
  if (block.folded) return h("details", { class: "card wide" }, h("summary", {}, block.title), tools, inner);
  return h("div", { class: "card wide" }, tools, h("h4", {}, block.title), inner);
}

function figure(block) {
  const drawing = DRAWN[block.kind](block);
  if (!drawing) return null;
  const groups = [...new Set((block.groups ?? []).filter(Boolean))];
  const place = h("div", { hidden: true });
  const toggle = h("button", { type: "button", class: "small", "aria-expanded": "false", "aria-label": `Show ${block.title} as a table` }, "Table");
  toggle.addEventListener("click", () => {
    const [head, rows] = TABLES[block.kind](block);
    if (place.hidden) place.replaceChildren(scroller(table(head, rows.slice(0, 2000), { title: block.title }), `${block.title}, table`));
    place.hidden = !place.hidden;
    toggle.setAttribute("aria-expanded", String(!place.hidden));
  });
  return h("figure", { class: `card figure-${block.kind}` },
    h("div", { class: "tools" }, toggle,
      button("CSV", `Download ${block.title} as CSV`, () => download(`${block.title}.csv`, toCsv(...TABLES[block.kind](block)), "text/csv")),
      button("SVG", `Download ${block.title} as SVG`, () => saveSvg(drawing, block.title)),
      button("PNG", `Download ${block.title} as PNG`, () => savePng(drawing, block.title))),
    h("figcaption", {}, h("h4", {}, block.title)), block.note && h("p", { class: "note" }, block.note),
    scroller(drawing, `${block.title}, drawing`), groups.length > 0 && macroLegend(groups), place);
}

const isNarrow = (block) => block.kind === "facts" || (block.kind === "grid" && block.head.length <= 5 && !block.folded);

// Drawings and narrow tables stand side by side where there is room, wide tables over the whole width.
function drawBlocks(blocks) {
  const found = [];
  let row = null;
  for (const block of blocks) {
    const element = drawBlock(block);
    if (!element) continue;
    if (DRAWN[block.kind] || isNarrow(block)) {
      if (!row) found.push((row = h("div", { class: "grid" })));
      row.append(element);
    } else {
      row = null;
      found.push(element);
    }
  }
  return found;
}

function drawPassage(passage) {
  if (!passage.blocks) return h("p", { class: "absent" }, `${passage.title}: left out, ${passage.absence ?? "there is nothing to show"}.`);
  return h("section", { id: passage.anchor, "aria-labelledby": `${passage.anchor}-title` },
    h("h3", { id: `${passage.anchor}-title` }, passage.title), drawBlocks(passage.blocks));
}
