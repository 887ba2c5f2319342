// What every other script builds with: elements, text that shows what it hides, downloads, the tip and the status line.
// Text enters the page as text only; nothing in these scripts writes HTML.
"use strict";

// Controls, bidirectional and other invisible marks, tags, halves of a pair: shown by their code, so that none works.
const UNSEEN = new RegExp(
  "[\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u180e\\u200b\\u200e\\u200f" +
    "\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\ud800-\\udfff\\u{e0000}-\\u{e007f}]",
  "gu",
);

function visible(text) {
  return String(text ?? "").replace(UNSEEN, (mark) => {
    const code = mark.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    return `⟨U+${code}⟩`;
  });
}

// An element. `given`: attributes; `on...` are listeners, `data` a mapping, a false one is left out.
function h(tag, given = {}, ...children) {
  return fill(document.createElement(tag), given, children);
}

function s(tag, given = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), given, children);
}

function fill(element, given, children) {
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "vars") for (const [key, part] of Object.entries(value)) element.style.setProperty(`--${key}`, part);
    else element.setAttribute(name, value === true ? "" : visible(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(visible(child)));
  }
  return element;
}

const find = (id) => document.getElementById(id);

function say(text) {
  find("said").textContent = visible(text);
}

const thin = (number) => Math.round(number).toString().replace(/\B(?=(\d{3})+$)/g, "\u2009");

// The tip: what stands in `data-tip` of what is pointed at or focused.
function showTip(text, x, y) {
  const tip = find("tip");
  tip.textContent = visible(text);
  tip.hidden = false;
  const width = tip.offsetWidth, height = tip.offsetHeight;
  const left = Math.max(4, Math.min(x + 12, document.documentElement.clientWidth - width - 4));
  const above = y - height - 10;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 4 ? above : y + 18}px`;
}

function hideTip() {
  find("tip").hidden = true;
}

function tipOf(event) {
  const owner = event.target.closest?.("[data-tip]");
  if (owner) showTip(owner.dataset.tip, event.clientX, event.clientY);
  else if (!event.target.closest?.("[data-tips]")) hideTip();
}
document.addEventListener("pointermove", tipOf);
document.addEventListener("pointerdown", tipOf); // a finger does not hover
document.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
document.addEventListener("scroll", hideTip, true);

// Files.
function download(name, content, type) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = h("a", { href: url, download: fileName(name) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  say(`${fileName(name)} was downloaded`);
}

function fileName(text) {
  const [, stem, ending] = /^(.*?)(\.[a-z]{3})?$/s.exec(text);
  const kept = stem.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 80);
  return `${kept || "data"}${ending ?? ""}`;
}

// Rows as CSV. A text that a spreadsheet would take for a formula gets an apostrophe; numbers stay as they are.
function toCsv(head, rows) {
  const cell = (value) => {
    if (typeof value === "number") return String(value);
    let text = String(value ?? "");
    if (/^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [head, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

function button(text, label, onclick) {
  return h("button", { type: "button", class: "small", "aria-label": label, onclick }, text);
}

// A wide thing in a box that scrolls by itself, can be focused, and says where more of it is.
function scroller(inner, label) {
  const box = h("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": label }, inner);
  const sign = h("div", { class: "more-right", "aria-hidden": "true" }, "more to the right →");
  const frame = h("div", { class: "scroll-frame" }, sign, box);
  const update = () => {
    const hidden = box.scrollWidth - box.clientWidth - box.scrollLeft;
    frame.classList.toggle("cut-right", hidden > 2);
    frame.classList.toggle("cut-left", box.scrollLeft > 2);
    box.tabIndex = box.scrollWidth > box.clientWidth + 2 ? 0 : -1;
  };
  box.addEventListener("scroll", update, { passive: true });
  new ResizeObserver(update).observe(box);
  return frame;
}
