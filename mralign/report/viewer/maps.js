// Heat maps of transitions, states grouped by macro-strategy; pointed at or walked with the arrow keys.
"use strict";

// The class that gives a macro-strategy its colour, by its place among those of the run.
function groupClass(groups, name) {
  const place = groups.indexOf(name);
  return place < 0 ? "macro-none" : `macro-${place % 8}`;
}

function cellTip(block, row, column) {
  const value = block.values[row][column], error = block.errors?.[row]?.[column];
  let text = "too rare";
  if (value !== null) {
    text = { share: () => value.toFixed(3), ratio: () => `× ${(2 ** value).toFixed(2)}`, difference: () => signed(value) }[block.scale]();
    if (error !== null && error !== undefined) text += ` ± ${+error.toPrecision(2)}`;
  }
  return `${block.states[row]} → ${block.states[column]}: ${text} (support ${block.support[row][column].toFixed(1)})`;
}

// How deep a cell is coloured, from 0 to 1, and in which of the colours.
function depth(block, value) {
  if (value === null) return ["empty", 0];
  if (block.scale === "share") return ["much", Math.sqrt(Math.min(1, Math.max(0, value)))];
  const bound = value > 0 ? block.bounds[1] : block.bounds[0];
  const share = bound * value > 0 ? Math.min(1, value / bound) : 0;
  return [value > 0 ? "more" : "less", share];
}

function drawSquare(block) {
  const K = block.states.length, cell = 22, names = block.states.map((state) => cutLabel(state, 24));
  const margin = textWidth(names) + 22, side = margin + cell * K;
  const groups = [...new Set(block.groups.filter(Boolean))];
  const marks = [], cells = [];
  block.states.forEach((state, row) => {
    const middle = margin + cell * row + 15, tone = groupClass(groups, block.groups[row]);
    marks.push(label(margin - 12, middle, names[row], { "text-anchor": "end" }),
      s("text", { x: middle, y: margin - 12, transform: `rotate(-90 ${middle} ${margin - 12})` }, names[row]),
      s("rect", { x: margin - 8, y: margin + cell * row, width: 5, height: cell - 1, class: `strip ${tone}` }),
      s("rect", { y: margin - 8, x: margin + cell * row, height: 5, width: cell - 1, class: `strip ${tone}` }));
    block.states.forEach((_, column) => {
      const [tone, share] = depth(block, block.values[row][column]);
      const band = block.bands?.[row]?.[column] ?? "none";
      cells.push(s("rect", { x: margin + cell * column, y: margin + cell * row, width: cell - 1, height: cell - 1,
        class: `cell cell-${tone} band-${band}`, vars: { share: `${(100 * share).toFixed(1)}%` }, data: { place: `${row} ${column}` } }));
    });
  });
  for (let i = 1; i < K; i++) {
    if (block.groups[i] === block.groups[i - 1]) continue;
    const at = margin + cell * i - 0.5;
    marks.push(s("line", { x1: at, x2: at, y1: margin - 8, y2: side, class: "border" }), s("line", { y1: at, y2: at, x1: margin - 8, x2: side, class: "border" }));
  }
  const frame = s("rect", { width: cell - 1, height: cell - 1, class: "current", visibility: "hidden" });
  const key = colourKey(block, margin, side + 14);
  const drawing = svg(side + 8, side + 40, `${block.title}: ${K} by ${K} transitions; arrow keys go from cell to cell`, [...cells, ...marks, frame, ...key],
    { tabindex: "0", data: { tips: "1" } });
  walk(drawing, { block, frame, margin, cell });
  return drawing;
}

function walk(drawing, { block, frame, margin, cell }) {
  const K = block.states.length;
  let row = 0, column = -1;
  const show = (x, y) => {
    frame.setAttribute("x", margin + cell * column);
    frame.setAttribute("y", margin + cell * row);
    frame.setAttribute("visibility", "visible");
    const text = cellTip(block, row, column);
    showTip(text, x, y);
    return text;
  };
  drawing.addEventListener("pointermove", (event) => {
    const place = event.target.dataset?.place;
    if (!place) return hideTip();
    [row, column] = place.split(" ").map(Number);
    show(event.clientX, event.clientY);
  });
  const leave = () => { frame.setAttribute("visibility", "hidden"); hideTip(); };
  drawing.addEventListener("pointerleave", leave);
  drawing.addEventListener("blur", leave);
  drawing.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!move) return;
    event.preventDefault();
    [row, column] = [row + move[0], column + move[1]].map((value) => Math.max(0, Math.min(K - 1, value)));
    const box = drawing.getBoundingClientRect(), scale = box.width / drawing.viewBox.baseVal.width;
    say(show(box.left + (margin + cell * (column + 1)) * scale, box.top + (margin + cell * row) * scale));
  });
}

function colourKey(block, x, y) {
  let stops;
  if (block.scale === "share") stops = [0.01, 0.1, 0.25, 0.5, 1].map((value) => [String(value), value]);
  else {
    const [low, high] = block.bounds;
    stops = [low, low / 2, 0, high / 2, high].map((value) => [block.scale === "ratio" ? `× ${+(2 ** value).toPrecision(2)}` : short(+value.toPrecision(2)), value]);
  }
  return stops.flatMap(([text, value], i) => {
    const [tone, share] = depth(block, value);
    return [s("rect", { x: x + 66 * i, y, width: 13, height: 13, class: `cell cell-${tone} bordered`, vars: { share: `${(100 * share).toFixed(1)}%` } }),
      label(x + 66 * i + 18, y + 11, text, { class: "quiet" })];
  });
}

function macroLegend(groups) {
  return h("ul", { class: "legend", "aria-label": "Macro-strategies" }, groups.map((name) =>
    h("li", {}, h("span", { class: `swatch ${groupClass(groups, name)}`, "aria-hidden": "true" }), name)));
}
