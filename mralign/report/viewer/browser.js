// The trajectory browser: a list to search and filter that draws only what is in sight, and the opened trajectory.
"use strict";

const ROW_HEIGHT = 62;
const FILTERS = [["shelf", "Kind"], ["outcome", "Outcome"], ["dataset", "Data set"], ["stratum", "Stratum"], ["stage", "Stage"], ["reason", "Reject reason"]];
const KEPT_CHUNKS = 24;

// Texts by chunk: parsed from the page, or loaded as a script from a file beside it.
const arrived = new Map();
const mralign = {
  register(run, number, records) {
    arrived.get(`${run} ${number}`)?.(records);
    arrived.delete(`${run} ${number}`);
  },
};

const policy = window.trustedTypes?.createPolicy("mralign", {
  createScriptURL: (name) => {
    if (!/^data\/trajectories-\d+-\d{4,}-[0-9a-f]{12}\.js$/.test(name)) throw new TypeError(`${name} is no file of this page`);
    return name;
  },
}) ?? { createScriptURL: (name) => name };

const chunks = new Map();

function readChunk(run, number, files) {
  const key = `${run} ${number}`;
  if (!chunks.has(key)) {
    chunks.set(key, files?.length ? loadChunk(key, files[number]) : Promise.resolve(JSON.parse(find(`chunk-${run}-${number}`).textContent)));
    if (chunks.size > KEPT_CHUNKS) chunks.delete(chunks.keys().next().value);
  }
  return chunks.get(key);
}

function loadChunk(key, name) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    arrived.set(key, resolve);
    script.onerror = () => {
      chunks.delete(key);
      reject(new Error(`${name} cannot be read; keep the directory data beside the page`));
    };
    script.onload = () => script.remove();
    script.src = policy.createScriptURL(name);
    document.head.append(script);
  });
}

class Browser {
  constructor(runs, number) {
    this.run = runs[number];
    this.number = number;
    this.index = this.run.index;
    this.columns = this.index.columns;
    this.total = this.columns.id.length;
    this.shown = Array.from({ length: this.total }, (_, i) => i);
    this.first = [];
    this.columns.chunk.forEach((chunk, i) => { this.first[chunk] ??= i; });
    this.place = -1;
    this.opened = 0; // counts what was opened, so that a slow chunk does not overtake a later choice
    this.build();
  }

  build() {
    this.search = h("input", { type: "search", id: "search", placeholder: "question, gold answer or id", oninput: () => this.filter() });
    this.deep = h("input", { type: "checkbox", id: "deep", onchange: () => this.filter() });
    this.selects = {};
    const filters = FILTERS.map(([name, title]) => this.select(name, title, this.index.names[name] ?? [])).filter(Boolean);
    const labels = this.index.names.labels ?? [];
    const order = Object.keys(this.run.macros ?? {}).filter((label) => labels.includes(label));
    const states = ["<start>", ...order, ...labels.filter((label) => !order.includes(label) && !["<start>", "<stop>"].includes(label)), "<stop>"];
    if (labels.length) {
      filters.push(this.select("label", "Label", states.slice(1, -1), labels));
      filters.push(this.select("from", "Transition from", states.slice(0, -1), labels), this.select("to", "Transition to", states.slice(1), labels));
    }
    this.count = h("p", { class: "count", role: "status" });
    this.list = h("div", { class: "list", role: "listbox", tabindex: "0", "aria-label": "Trajectories", onscroll: () => this.paint(), onkeydown: (event) => this.key(event), onclick: (event) => this.click(event) }, (this.space = h("div", { class: "space" })));
    this.detail = h("div", { class: "detail", "aria-live": "off" }, h("p", { class: "lead" }, "Choose a trajectory from the list: with the pointer, or with the arrow keys and Enter."));
    this.element = h("div", { class: "browser" },
      h("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
        h("label", { class: "search", for: "search" }, h("span", {}, "Search"), this.search),
        h("label", { class: "check", for: "deep" }, this.deep, " also in the thoughts"), filters,
        button("Reset", "Reset search and filters", () => this.reset()),
        button("CSV", "Download the list as CSV", () => this.save())),
      h("div", { class: "panes" }, h("div", { class: "pane" }, this.count, this.list), this.detail));
    new ResizeObserver(() => this.paint()).observe(this.list);
    this.filter();
  }

  // A filter over one column; none where there is nothing to choose between.
  select(name, title, names, codes = names) {
    const values = names.filter((value) => value !== "");
    if (values.length < (names.length > values.length ? 1 : 2)) return null;
    const select = h("select", { id: `filter-${name}`, onchange: () => this.filter() }, h("option", { value: "" }, "all"),
      values.map((value) => h("option", { value: String(codes.indexOf(value)) }, value)));
    this.selects[name] = select;
    return h("label", { for: `filter-${name}` }, h("span", {}, title), select);
  }

  reset() {
    this.search.value = "";
    this.deep.checked = false;
    for (const select of Object.values(this.selects)) select.value = "";
    this.filter();
  }

  chosen(name) {
    const value = this.selects[name]?.value ?? "";
    return value === "" ? null : Number(value);
  }

  passes() {
    const tests = FILTERS.filter(([name]) => this.chosen(name) !== null).map(([name]) => {
      const column = this.columns[name], wanted = this.chosen(name);
      return (i) => column[i] === wanted;
    });
    const [label, from, to] = ["label", "from", "to"].map((name) => this.chosen(name));
    if (label !== null) tests.push((i) => this.columns.labels[i].includes(label));
    if (from !== null || to !== null) {
      tests.push((i) => {
        const moves = this.columns.moves[i];
        for (let k = 0; k < moves.length; k += 2) if ((from === null || moves[k] === from) && (to === null || moves[k + 1] === to)) return true;
        return false;
      });
    }
    return tests;
  }

  async filter() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean), tests = this.passes();
    const turn = (this.turn = (this.turn ?? 0) + 1);
    if (words.length) {
      let texts;
      try {
        texts = this.deep.checked ? await this.allTexts(turn) : this.ownTexts();
      } catch (error) {
        this.count.textContent = error.message;
        return;
      }
      if (turn !== this.turn) return; // somebody has typed on
      tests.push((i) => words.every((word) => texts[i].includes(word)));
    }
    const current = this.shown[this.place];
    this.shown = [];
    for (let i = 0; i < this.total; i++) if (tests.every((test) => test(i))) this.shown.push(i);
    this.place = this.shown.indexOf(current);
    this.count.textContent = `${thin(this.shown.length)} of ${thin(this.total)} trajectories${this.index.full ? " (this page holds no more; the others stand in the tables)" : ""}`;
    this.space.style.height = `${this.shown.length * ROW_HEIGHT}px`;
    this.list.scrollTop = Math.max(0, this.place * ROW_HEIGHT - 100);
    this.paint(true);
  }

  ownTexts() {
    this.texts ??= this.columns.id.map((id, i) => `${id}\n${this.columns.question[i]}\n${this.columns.gold[i]}`.toLowerCase());
    return this.texts;
  }

  // The texts of everything: read once, chunk by chunk.
  async allTexts(turn) {
    if (this.deepTexts) return this.deepTexts;
    const texts = [...this.ownTexts()];
    for (let number = 0; number < (this.index.chunks ?? 0); number++) {
      this.count.textContent = `reading the thoughts: ${number + 1} of ${this.index.chunks}`;
      const records = await readChunk(this.number, number, this.run.files);
      if (turn !== this.turn) return texts;
      records.forEach((record, k) => { texts[this.first[number] + k] += `\n${spoken(record)}`; });
      await new Promise((resolve) => setTimeout(resolve));
    }
    return (this.deepTexts = texts);
  }

  // Draws the rows in sight and a few around them.
  paint(anew = false) {
    const top = Math.max(0, Math.floor(this.list.scrollTop / ROW_HEIGHT) - 4);
    const end = Math.min(this.shown.length, top + Math.ceil(this.list.clientHeight / ROW_HEIGHT) + 8);
    if (!anew && top === this.top && end === this.end) return;
    [this.top, this.end] = [top, end];
    const rows = [];
    for (let place = top; place < end; place++) rows.push(this.row(place));
    this.space.replaceChildren(...rows);
    if (this.place >= 0) this.list.setAttribute("aria-activedescendant", `option-${this.place}`);
    else this.list.removeAttribute("aria-activedescendant");
  }

  row(place) {
    const i = this.shown[place], name = (column) => this.index.names[column][this.columns[column][i]];
    const row = h("div", { class: "row", role: "option", id: `option-${place}`, "aria-selected": String(place === this.place), "aria-posinset": place + 1, "aria-setsize": this.shown.length, data: { place } },
      h("div", { class: "row-question" }, this.columns.question[i] || this.columns.id[i]),
      h("div", { class: "row-about" }, badge(name("outcome"), name("outcome")), h("span", {}, [name("reason"), tail(this.columns.id[i])].filter(Boolean).join(" · "))));
    row.style.top = `${place * ROW_HEIGHT}px`;
    return row;
  }

  click(event) {
    const row = event.target.closest("[data-place]");
    if (row) this.choose(Number(row.dataset.place));
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.list.clientHeight / ROW_HEIGHT) - 1), last = this.shown.length - 1;
    const to = { ArrowDown: this.place + 1, ArrowUp: this.place - 1, PageDown: this.place + page, PageUp: this.place - page, Home: 0, End: last }[event.key];
    if (event.key === "Enter") {
      this.detail.querySelector("h3")?.focus();
      this.detail.scrollIntoView({ block: "nearest" });
    } else if (to !== undefined && last >= 0) this.choose(Math.max(0, Math.min(last, to)));
    else return;
    event.preventDefault();
  }

  choose(place) {
    this.place = place;
    const top = place * ROW_HEIGHT, list = this.list;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + ROW_HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_HEIGHT - list.clientHeight;
    this.paint(true);
    this.open(this.shown[place]);
  }

  // Opens the row of an id, whatever is filtered.
  go(id) {
    if (this.columns.id[this.current] === id) return;
    const i = this.columns.id.indexOf(id);
    if (i < 0) {
      this.detail.replaceChildren(h("p", { class: "absent" }, `There is no trajectory with the id ${id} in this run.`));
      return;
    }
    if (!this.shown.includes(i)) this.reset();
    this.place = this.shown.indexOf(i);
    this.list.scrollTop = Math.max(0, this.place * ROW_HEIGHT - 100);
    this.paint(true);
    this.open(i);
  }

  async open(i) {
    const turn = ++this.opened, id = this.columns.id[i], chunk = this.columns.chunk[i];
    this.current = i;
    history.replaceState(null, "", rowHash(id, this.number));
    try {
      const records = await readChunk(this.number, chunk, this.run.files);
      if (turn !== this.opened) return;
      this.detail.replaceChildren(drawTrajectory(records[i - this.first[chunk]], { run: this.run, anchor: id, link: rowHash(id, this.number) }));
      this.detail.scrollTop = 0;
    } catch (error) {
      this.detail.replaceChildren(h("p", { class: "absent" }, error.message));
    }
  }

  save() {
    const name = (column, i) => this.index.names[column][this.columns[column][i]];
    const head = ["id", "question", "gold", ...FILTERS.map(([column]) => column), "labels"];
    const rows = this.shown.map((i) => [this.columns.id[i], this.columns.question[i], this.columns.gold[i], ...FILTERS.map(([column]) => name(column, i)),
      this.columns.labels[i].map((code) => this.index.names.labels[code]).join(" ")]);
    download("trajectories.csv", toCsv(head, rows), "text/csv");
  }
}

// The end of an id says most: the question and the draw.
const tail = (id, most = 34) => (id.length > most ? `…${id.slice(1 - most)}` : id);
const rowHash = (id, run) => `#${run ? `run=${run},` : ""}row=${encodeURIComponent(id)}`;

function spoken(record) {
  const pieces = (record.sides ?? []).flatMap((side) => [...(side.steps ?? []).flatMap((step) => (step.segments ?? []).map((segment) => segment.join(""))), (side.answer ?? []).join("")]);
  return pieces.join("\n").toLowerCase();
}
