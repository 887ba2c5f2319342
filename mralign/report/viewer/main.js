// Puts the page together: the head, the views and the way between them.
"use strict";

const page = JSON.parse(find("page-data").textContent);
const state = { run: 0, view: null, browsers: new Map(), sections: new Map() };

function viewsOf(run) {
  const own = run.views.map((view) => ({ ...view, run }));
  return page.compared ? [{ ...page.compared, run }, ...own] : own;
}

function drawHead() {
  const run = page.runs[state.run];
  const chooser = page.runs.length > 1 && h("label", { class: "chooser", for: "run-chooser" }, "Run ",
    h("select", { id: "run-chooser", onchange: (event) => { state.run = Number(event.target.value); drawHead(); open(state.view, true); } },
      page.runs.map((one, i) => h("option", { value: i, selected: i === state.run }, one.name))));
  find("head").replaceChildren(h("h1", {}, page.runs.length > 1 ? `${page.runs.length} runs` : run.name), h("p", {}, chooser, run.summary));
  find("nav").replaceChildren(h("div", {}, viewsOf(run).map((view) => h("a", { href: `#${view.anchor}`, data: { view: view.anchor } }, view.title))));
  find("footer").textContent = visible(run.footer);
}

// The element of a view, drawn when it is first opened.
function element(view) {
  const key = `${state.run} ${view.anchor}`;
  if (!state.sections.has(key)) {
    const body = view.anchor === "trajectories" ? [browser().element] : (view.sections ?? []).map(drawPassage);
    state.sections.set(key, h("div", { class: "view", "aria-labelledby": `view-${view.anchor}` }, h("h2", { id: `view-${view.anchor}`, tabindex: "-1" }, view.title),
      view.anchor === "outcome" && colours(), body));
  }
  return state.sections.get(key);
}

function browser() {
  if (!state.browsers.has(state.run)) state.browsers.set(state.run, new Browser(page.runs, state.run));
  return state.browsers.get(state.run);
}

// What the colours mean, once and for all views.
function colours() {
  const meanings = [["trained", "aligned model"], ["base", "model before training"], ["published", "published"], ["positive", "more, right, positive"], ["negative", "less, wrong, negative"]];
  return h("ul", { class: "legend", "aria-label": "Colours" }, meanings.map(([tone, text]) => h("li", {}, h("span", { class: `swatch tone-${tone}`, "aria-hidden": "true" }), text)));
}

function open(anchor, again = false) {
  const views = viewsOf(page.runs[state.run]);
  const view = views.find((one) => one.anchor === anchor) ?? views[0];
  if (state.view === view.anchor && !again) return;
  state.view = view.anchor;
  hideTip();
  find("main").replaceChildren(element(view));
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.dataset.view === view.anchor) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.querySelector("#nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  if (view.anchor === "trajectories") browser().paint(true);
}

// #view, #section of a view, #row=ID of a trajectory, or #run=1,row=ID of one of another run.
function follow(first = false) {
  const hash = decoded(location.hash.slice(1));
  const [, number, id] = /^(?:run=(\d+),)?row=(.*)$/s.exec(hash) ?? [];
  if (id !== undefined) {
    const run = Number(number ?? 0), changed = run !== state.run && run < page.runs.length;
    if (changed) {
      state.run = run;
      drawHead();
    }
    open("trajectories", changed);
    browser().go(id);
    return;
  }
  const views = viewsOf(page.runs[state.run]);
  const owner = views.find((view) => view.anchor === hash) ?? views.find((view) => (view.sections ?? []).some((section) => section.anchor === hash)) ?? views[0];
  open(owner.anchor);
  const target = owner.anchor === hash ? null : find(hash);
  if (target && hash !== "main") target.scrollIntoView();
  else if (!first && hash !== "main") {
    scrollTo(0, 0);
    find(`view-${owner.anchor}`)?.focus({ preventScroll: true });
  }
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  find("main").focus();
});
addEventListener("hashchange", () => follow());

// On paper stands everything but the list of trajectories, with the one that is open.
addEventListener("beforeprint", () => {
  const views = viewsOf(page.runs[state.run]);
  find("main").replaceChildren(...views.map(element));
  for (const details of document.querySelectorAll("details.wide")) details.open = true;
});
addEventListener("afterprint", () => open(state.view, true));

drawHead();
follow(true);
document.documentElement.dataset.ready = "yes";
