// One trajectory to read: its sides beside each other, step by step, with labels, weights, opinions and gold answers.
"use strict";

const OUTCOMES = {
  won: "won: wrong before, right now", lost: "lost: right before, wrong now", kept: "kept: right before and now",
  missed: "missed: wrong before and now", right: "right", wrong: "wrong", "not scored": "not scored",
  positive: "positive: thinking helped", negative: "negative: thinking hurt", neutral: "neutral: neither", "put aside": "put aside",
};
const VERDICTS = { "thought holds gold": ["thought lacks gold", "thought holds gold"], "answer right": ["answer wrong", "answer right"], misleading: ["not misleading", "misleading"] };
const ROLES = { base: "before training", trained: "aligned", rollout: "the model itself" };

function drawTrajectory(record, { run, anchor, link }) {
  const sides = record.sides ?? [];
  const groups = [...new Set(Object.values(run.macros ?? {}))];
  const reason = record.reason && [`put aside by stage ${record.stage}`, record.reason, record.detail].filter(Boolean).join(" · ");
  const weighed = sides.some((side) => (side.steps ?? []).some((step) => step.weight !== undefined));
  const labelled = sides.some((side) => (side.steps ?? []).some((step) => step.labels));
  return h("article", { class: "trajectory", "aria-labelledby": "trajectory-title" },
    h("p", { class: "note" }, badge(record.outcome, record.outcome), " ", [record.dataset, record.shelf, record.stratum, !record.reason && record.detail].filter(Boolean).join(" · "), " ",
      h("a", { href: link, class: "row-id", title: "Link to this row" }, `# ${anchor}`)),
    h("h3", { id: "trajectory-title", tabindex: "-1" }, record.question || record.row_id),
    h("p", { class: "note" }, OUTCOMES[record.outcome] ?? record.outcome, record.answers?.length ? " · gold: " : null,
      (record.answers ?? []).map((answer, i) => [i ? " | " : null, h("mark", {}, answer)])),
    reason && h("p", { class: "reason" }, reason),
    labelled && groups.length > 0 && macroLegend(groups),
    weighed && h("p", { class: "note" }, "The deeper a step is coloured, the more its tokens weigh. Point at a text for the weight of its tokens."),
    h("div", { class: sides.length > 1 ? "sides two" : "sides" }, sides.map((side) => drawSide(side, { run, groups }))));
}

function badge(text, tone) {
  return h("span", { class: `badge badge-${String(tone).replace(/\W+/g, "-")}` }, text);
}

function drawSide(side, { run, groups }) {
  const verdicts = Object.entries(side.verdict ?? {}).map(([name, value]) => {
    const good = name === "misleading" ? !value : Boolean(value);
    return h("span", { class: `verdict ${good ? "good" : "bad"}` }, `${good ? "✓" : "✗"} ${VERDICTS[name]?.[Number(value)] ?? `${name}: ${value}`}`);
  });
  const about = [side.tokens !== undefined && `${side.tokens} tokens`, side.invalid && `cannot be judged: ${side.invalid}`].filter(Boolean).join(" · ");
  return h("section", { class: `side side-${side.role}`, "aria-label": `${side.method}, ${ROLES[side.role]}` },
    h("h4", {}, h("span", { class: `dot tone-${side.role === "rollout" ? "plain" : side.role}`, "aria-hidden": "true" }), side.method, h("span", { class: "note" }, ` ${ROLES[side.role]}`)),
    h("p", { class: "verdicts" }, verdicts), about && h("p", { class: "note" }, about),
    (side.steps ?? []).map((step) => drawStep(step, { run, groups })),
    h("div", { class: "step answer" }, h("div", { class: "labels" }, h("b", {}, side.steps?.length ? "answer" : "text"), side.steps?.some((step) => step.weight !== undefined) && h("span", { class: "note" }, "weight 1")),
      h("div", { class: "said" }, drawPieces(side.answer ?? [""]))),
    side.cut > 0 && h("p", { class: "note" }, `${thin(side.cut)} more characters stand in the table, and are not shown here.`));
}

// Every second piece is a gold answer.
function drawPieces(pieces) {
  return pieces.map((piece, i) => (i % 2 ? h("mark", { title: "gold answer" }, piece) : piece));
}

function drawStep(step, { run, groups }) {
  const labels = step.labels ?? [], macros = labels.map((label) => run.macros?.[label]);
  const weight = step.weight, known = weight !== undefined;
  const tip = known ? `weight ${weight.toFixed(3)}${step.tokens !== undefined ? ` on each of ${step.tokens} tokens` : ""}` : null;
  const text = (step.segments ?? []).map((segment, i) => [i ? "\n\n" : null, h("span", { class: "segment", data: tip ? { tip } : {} }, drawPieces(segment))]);
  return h("div", { class: `step ${groupClass(groups, macros[0])}`, vars: { depth: `${stepDepth(weight, run.bounds)}%` } },
    h("div", { class: "labels" }, labels.map((label, i) => h("b", { class: `label ${groupClass(groups, macros[i])}`, title: macros[i] ?? null }, label)),
      known && h("span", { class: "weight" }, `× ${weight.toFixed(2)}`), drawOpinions(step)),
    h("div", { class: "said" }, text));
}

// From 4 at the smallest weight to 46 at the largest; 16 for a step without one.
function stepDepth(weight, bounds) {
  if (weight === undefined || !(weight > 0)) return 16;
  const [low, high] = bounds.map(Math.log), share = (Math.log(weight) - low) / (high - low || 1);
  return Math.round(4 + 42 * Math.max(0, Math.min(1, share)));
}

// What each annotator said, and by which rule the labels were decided.
function drawOpinions(step) {
  if (!step.rule && !step.opinions?.length) return null;
  const said = (step.opinions ?? []).map((opinion) => {
    const labels = (opinion.labels ?? []).map(([label, sure]) => (sure === null ? label : `${label} ${+sure.toPrecision(3)}`));
    return h("span", { class: "opinion" }, `${opinion.who}: ${labels.join(", ") || "no label"}`);
  });
  return h("span", { class: "opinions" }, step.rule && h("span", { class: "rule" }, `rule: ${step.rule}`), said);
}
