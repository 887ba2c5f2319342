// Drawings as SVG: bars, intervals, curves, histograms, graphs; and their way out as SVG, PNG and CSV.
// A block of the page enters, an <svg> leaves. Colours are classes: the style sheet knows light and dark.
"use strict";

const CHARACTER = 6.6; // width of a character of 12 px text

function textWidth(texts) {
  return Math.ceil(CHARACTER * Math.max(0, ...texts.map((text) => visible(text).length)));
}

function label(x, y, text, given = {}) {
  return s("text", { x, y, ...given }, text);
}

function svg(width, height, name, marks, given = {}) {
  return s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": name, ...given }, marks);
}

// Round numbers from at or below `low` to at or above `high`.
function niceTicks(low, high, about = 5) {
  const span = high - low || Math.abs(high) || 1;
  const power = 10 ** Math.floor(Math.log10(span / about));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => span / size <= about + 1e-9);
  const first = Math.floor(low / step + 1e-9), last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: Math.max(last, first + 1) - first + 1 }, (_, i) => +((first + i) * step).toPrecision(12));
}

const short = (value) => (value === null ? "–" : String(+value.toPrecision(4)).replace("-", "−"));
const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;

function cutLabel(text, most = 34) {
  const shown = visible(text);
  return shown.length > most ? `${shown.slice(0, most - 1)}…` : shown;
}

function drawBars(block) {
  const rows = block.rows ?? [];
  const top = block.top ?? Math.max(0, ...rows.map((row) => row.value)) ?? 1;
  const names = rows.map((row) => cutLabel(row.label));
  const left = textWidth(names) + 12, room = 240, right = textWidth(rows.map((row) => row.text)) + 12;
  const marks = rows.map((row, i) => {
    const y = 26 * i + 4, length = Math.max(1, (room * row.value) / (top || 1));
    return s("g", { data: { tip: `${row.label}: ${row.text}` } },
      label(left - 8, y + 13, names[i], { "text-anchor": "end" }),
      s("rect", { x: left, y, width: length, height: 18, rx: 2, class: `mark tone-${row.tone}` }),
      label(left + length + 6, y + 13, row.text, { class: "quiet" }));
  });
  return svg(left + room + right, 26 * rows.length + 6, block.title, marks);
}

function drawIntervals(block) {
  const rows = block.rows ?? [];
  const low = Math.min(...rows.map((row) => row.low ?? row.value)), high = Math.max(...rows.map((row) => row.high ?? row.value));
  const ticks = niceTicks(low, high), start = Math.min(ticks[0], low), end = Math.max(ticks.at(-1), high);
  const names = rows.map((row) => cutLabel(row.label));
  const left = textWidth(names) + 14, span = 300, height = 28 * rows.length + 44;
  const x = (value) => left + (span * (value - start)) / (end - start || 1);
  const marks = ticks.map((tick) => [
    s("line", { x1: x(tick), x2: x(tick), y1: 4, y2: height - 38, class: "grid" }),
    label(x(tick), height - 24, short(tick), { "text-anchor": "middle", class: "quiet" })]);
  rows.forEach((row, i) => {
    const y = 28 * i + 18;
    const known = row.low !== undefined && row.low !== null;
    const tip = `${row.label}: ${row.value.toFixed(2)}` + (known ? ` [${row.low.toFixed(2)}, ${row.high.toFixed(2)}]` : "");
    marks.push(s("g", { data: { tip } },
      s("rect", { x: 0, y: y - 13, width: left + span, height: 26, class: "catch" }),
      label(left - 8, y + 4, names[i], { "text-anchor": "end", class: row.tone === "published" ? "quiet" : "" }),
      known && s("line", { x1: x(row.low), x2: x(row.high), y1: y, y2: y, class: `stroke tone-${row.tone}` }),
      row.tone === "published"
        ? s("path", { d: `M${x(row.value)} ${y - 6}l6 6l-6 6l-6 -6z`, class: "hollow" })
        : s("circle", { cx: x(row.value), cy: y, r: 5.5, class: `mark tone-${row.tone}` })));
  });
  marks.push(label(left + span / 2, height - 6, `percent (${block.better} is better)`, { "text-anchor": "middle", class: "quiet" }));
  return svg(left + span + 24, height, `${block.title}, ${block.better} is better`, marks);
}

// Two axes with their titles. Returns the marks, and places of values.
function axes({ x, y, xTitle, yTitle, xTicks, yTicks, top }) {
  const left = 66, width = 380, bottom = top + 160;
  const at = {
    x: (value) => left + (width * (value - x[0])) / (x[1] - x[0] || 1),
    y: (value) => bottom - (160 * (value - y[0])) / (y[1] - y[0] || 1),
  };
  const marks = [
    ...yTicks.map((tick) => [s("line", { x1: left, x2: left + width, y1: at.y(tick), y2: at.y(tick), class: "grid" }),
      label(left - 7, at.y(tick) + 4, short(tick), { "text-anchor": "end", class: "quiet" })]),
    ...xTicks.map((tick) => label(at.x(tick), bottom + 17, short(tick), { "text-anchor": "middle", class: "quiet" })),
    label(left + width / 2, bottom + 36, xTitle, { "text-anchor": "middle", class: "axis" }),
    label(14, top + 80, yTitle, { "text-anchor": "middle", class: "axis", transform: `rotate(-90 14 ${top + 80})` }),
  ];
  return { at, marks, left, width, bottom, whole: [left + width + 20, bottom + 46] };
}

// Names of series in rows that do not run out of the drawing.
function legend(series, left, most) {
  let x = left, y = 14;
  const marks = series.map((one) => {
    const wide = 30 + textWidth([one.name]);
    if (x > left && x + wide > left + most) [x, y] = [left, y + 18];
    const mark = [one.points
      ? s("line", { x1: x, x2: x + 12, y1: y - 3, y2: y - 3, class: `line tone-${one.tone} ${one.again}` })
      : s("rect", { x, y: y - 9, width: 11, height: 11, rx: 2, class: `mark tone-${one.tone}` }), label(x + 16, y + 1, one.name)];
    x += wide;
    return mark;
  });
  return { marks, height: y + 12 };
}

function drawCurves(block) {
  const tones = block.series.map((one) => one.tone);
  const series = block.series.map((one, place) => ({ ...one, again: tones.indexOf(one.tone) < place ? "again" : "", points: one.x.map((x, i) => [x, one.y[i]]).filter(([, y]) => y !== null) }));
  const all = series.flatMap((one) => one.points);
  if (!all.length) return null;
  const xs = all.map(([x]) => x), ys = all.map(([, y]) => y);
  const extent = (values) => [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  const x = extent(xs), yTicks = niceTicks(...extent(ys));
  const xTicks = niceTicks(...x).filter((tick) => Number.isInteger(tick) && tick >= x[0] && tick <= x[1]);
  const names = legend(series, 66, 380);
  const frame = axes({ x, y: [yTicks[0], yTicks.at(-1)], xTitle: block.x_title, yTitle: block.y_title, xTicks, yTicks, top: names.height + 6 });
  const lines = series.map((one) => one.points.length > 1
    ? s("polyline", { points: one.points.map(([px, py]) => `${frame.at.x(px).toFixed(1)},${frame.at.y(py).toFixed(1)}`).join(" "), class: `line tone-${one.tone} ${one.again}` })
    : s("circle", { cx: frame.at.x(one.points[0]?.[0] ?? 0), cy: frame.at.y(one.points[0]?.[1] ?? 0), r: 3.5, class: `mark tone-${one.tone}` }));
  const cross = s("line", { y1: names.height + 6, y2: frame.bottom, class: "cross", visibility: "hidden" });
  const drawing = svg(...frame.whole, `${block.title}: ${block.y_title} by ${block.x_title}`, [...names.marks, ...frame.marks, ...lines, cross],
    { tabindex: "0", data: { tips: "1" } });
  const steps = [...new Set(xs)].sort((a, b) => a - b);
  let current = -1;
  const show = (i, px, py) => {
    current = Math.max(0, Math.min(steps.length - 1, i));
    const step = steps[current], said = series.flatMap((one) => one.points.filter(([sx]) => sx === step).map(([, y]) => `${one.name} ${short(y)}`));
    cross.setAttribute("x1", frame.at.x(step));
    cross.setAttribute("x2", frame.at.x(step));
    cross.setAttribute("visibility", "visible");
    const text = `${block.x_title} ${step}: ${said.join(", ")}`;
    showTip(text, px, py);
    return text;
  };
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const value = x[0] + ((((event.clientX - box.left) * frame.whole[0]) / box.width - frame.left) / frame.width) * (x[1] - x[0]);
    let near = 0;
    steps.forEach((step, i) => { if (Math.abs(step - value) < Math.abs(steps[near] - value)) near = i; });
    show(near, event.clientX, event.clientY);
  });
  const leave = () => { cross.setAttribute("visibility", "hidden"); hideTip(); };
  drawing.addEventListener("pointerleave", leave);
  drawing.addEventListener("blur", leave);
  drawing.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    const box = drawing.getBoundingClientRect();
    const next = Math.max(0, Math.min(steps.length - 1, current + move));
    say(show(next, box.left + (frame.at.x(steps[next]) * box.width) / frame.whole[0], box.top + 40));
  });
  return drawing;
}

function drawHistogram(block) {
  const sums = block.series.map((one) => one.counts.reduce((a, b) => a + b, 0));
  const shares = block.series.map((one, i) => one.counts.map((count) => (100 * count) / sums[i]));
  const yTicks = niceTicks(0, Math.max(...shares.flat()));
  const names = legend(block.series.map((one, i) => ({ ...one, name: `${one.name} (n ${sums[i]})` })), 66, 380);
  const frame = axes({ x: [0, 1], y: [0, yTicks.at(-1)], xTitle: block.x_title, yTitle: "% of thoughts with a hit", xTicks: [0, 0.25, 0.5, 0.75, 1], yTicks, top: names.height + 6 });
  const marks = block.series.flatMap((one, number) => {
    const bins = one.counts.length, wide = frame.width / bins, each = (wide - 2) / block.series.length;
    return one.counts.map((count, bin) => {
      if (!count) return null;
      const top = frame.at.y(shares[number][bin]);
      const tip = `${one.name}, ${(bin / bins).toFixed(2)} to ${((bin + 1) / bins).toFixed(2)}: ${count} of ${sums[number]}`;
      return s("rect", { x: frame.left + wide * bin + 1 + each * number, y: top, width: each, height: frame.bottom - top, class: `mark tone-${one.tone}`, data: { tip } });
    });
  });
  const means = block.series.filter((one) => one.mean !== undefined).map((one) =>
    s("line", { x1: frame.at.x(one.mean), x2: frame.at.x(one.mean), y1: names.height + 6, y2: frame.bottom, class: `stroke dashed tone-${one.tone}`, data: { tip: `${one.name}: mean ${one.mean.toFixed(3)}` } }));
  return svg(...frame.whole, block.title, [...names.marks, ...frame.marks, ...marks, ...means]);
}

// States on a circle, macro-strategy by macro-strategy; arrows as wide as the change (the paper's Fig. 4).
function drawGraph(block) {
  const centre = 132 + textWidth(block.states.map((state) => cutLabel(state, 20))), size = 2 * centre, radius = 120, K = block.states.length;
  const angle = (i) => (2 * Math.PI * i) / K - Math.PI / 2;
  const place = (i, r = radius) => [centre + r * Math.cos(angle(i)), centre + r * Math.sin(angle(i))];
  const largest = Math.max(...block.edges.map((edge) => Math.abs(edge.difference)));
  const groups = [...new Set(block.groups.filter(Boolean))];
  const arrows = block.edges.map((edge) => {
    const tone = edge.difference > 0 ? "more" : "less", wide = 1 + (5 * Math.abs(edge.difference)) / largest;
    const [from, to] = [block.states.indexOf(edge.source), block.states.indexOf(edge.target)];
    const tip = `${edge.source} → ${edge.target}: ${signed(edge.difference)}` + (edge.error === undefined ? "" : ` ± ${edge.error.toFixed(3)}`) + ` (support ${edge.support.toFixed(1)})`;
    return s("g", { class: `arrow tone-${tone}`, data: { tip }, vars: { wide: `${wide}px` } }, from === to ? loop(place(from), angle(from)) : arrow(place(from), place(to), [centre, centre], wide));
  });
  const nodes = block.states.map((state, i) => {
    const used = block.edges.some((edge) => edge.source === state || edge.target === state);
    const [x, y] = place(i), [lx, ly] = place(i, radius + 12), left = Math.cos(angle(i)) < -1e-9;
    const turn = (angle(i) * 180) / Math.PI + (left ? 180 : 0);
    return s("g", { class: used ? "" : "faint" },
      s("circle", { cx: x, cy: y, r: 6, class: `node ${groupClass(groups, block.groups[i])}`, data: { tip: `${state}${block.groups[i] ? `, ${block.groups[i]}` : ""}` } }),
      label(lx, ly, cutLabel(state, 20), { "text-anchor": left ? "end" : "start", dy: "0.35em", transform: `rotate(${turn.toFixed(1)} ${lx} ${ly})` }));
  });
  const said = block.edges.map((edge) => `${edge.source} to ${edge.target} ${signed(edge.difference)}`).join("; ");
  return svg(size, size, `${block.title}: ${said}`, [...arrows, ...nodes]);
}

function arrow([x1, y1], [x2, y2], [cx, cy], wide) {
  const bend = [(x1 + x2) / 2 + (cx - (x1 + x2) / 2) * 0.35 + (y2 - y1) * 0.12, (y1 + y2) / 2 + (cy - (y1 + y2) / 2) * 0.35 - (x2 - x1) * 0.12];
  const back = Math.atan2(y2 - bend[1], x2 - bend[0]), tip = [x2 - 8 * Math.cos(back), y2 - 8 * Math.sin(back)];
  const head = 6 + wide, base = [tip[0] - head * Math.cos(back), tip[1] - head * Math.sin(back)];
  const half = [0.5 * head * Math.sin(back), -0.5 * head * Math.cos(back)];
  return [s("path", { d: `M${x1} ${y1}Q${bend[0]} ${bend[1]} ${base[0]} ${base[1]}`, class: "shaft" }),
    s("path", { d: `M${tip[0]} ${tip[1]}L${base[0] + half[0]} ${base[1] + half[1]}L${base[0] - half[0]} ${base[1] - half[1]}z`, class: "head" })];
}

function loop([x, y], turn) {
  const [cx, cy] = [x - 15 * Math.cos(turn), y - 15 * Math.sin(turn)];
  return [s("circle", { cx, cy, r: 10, class: "shaft" })];
}

// A drawing as a file that stands alone: what the style sheet says becomes attributes.
const KEPT_STYLES = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity", "opacity", "font-size", "font-family", "font-weight", "visibility"];

function alone(drawing) {
  const copy = drawing.cloneNode(true);
  const originals = [drawing, ...drawing.querySelectorAll("*")], copies = [copy, ...copy.querySelectorAll("*")];
  originals.forEach((original, i) => {
    const style = getComputedStyle(original);
    for (const name of KEPT_STYLES) copies[i].setAttribute(name, plainColour(style.getPropertyValue(name)));
    for (const name of ["class", "style", "tabindex", "data-tips"]) copies[i].removeAttribute(name);
    if (original.dataset.tip) {
      copies[i].removeAttribute("data-tip");
      copies[i].prepend(s("title", {}, original.dataset.tip));
    }
  });
  const [x, y, width, height] = drawing.getAttribute("viewBox").split(" ").map(Number);
  const paper = plainColour(getComputedStyle(drawing.closest("figure") ?? document.body).backgroundColor);
  copy.prepend(s("rect", { x, y, width, height, fill: paper }));
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  return { text: new XMLSerializer().serializeToString(copy), width, height };
}

function plainColour(value) {
  return value.replace(/color\(srgb ([\d.e-]+) ([\d.e-]+) ([\d.e-]+)(?: \/ [\d.]+)?\)/g, (_, ...parts) =>
    `rgb(${parts.slice(0, 3).map((part) => Math.round(255 * part)).join(",")})`);
}

function saveSvg(drawing, name) {
  download(`${name}.svg`, alone(drawing).text, "image/svg+xml");
}

function savePng(drawing, name) {
  const { text, width, height } = alone(drawing), image = new Image(), scale = 3;
  image.onload = () => {
    const canvas = h("canvas", { width: width * scale, height: height * scale });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => download(`${name}.png`, blob));
  };
  image.onerror = () => say("The drawing could not be turned into a PNG; take the SVG");
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
}
