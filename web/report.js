// Shows on the canvas what a sampling did: in full on Encore Report, in a line on the nodes that carry the cache.
// Ordinary DOM widgets, so that it looks the same in the classic canvas and in Nodes 2.0.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const EVENT = "encore.report"; // sent by nodes/live.py at the end of a sampling: { node, run }
const REPORT = [420, 216]; // pixels of a new Encore Report: width, and height of its panel at least
const CARRIER = [300, 76]; // the same of a node that puts a cache on a model
const EMPTY = {
  EncoreReport: "Queue the workflow: the report appears here.",
  EncoreMeasure: "Queue the workflow: what every step takes appears here.",
};
const WAITING = "Queue the workflow: what was computed appears here.";
const ESTIMATE = "est.: against a loop whose every step takes as long as the median computed one. Encore Report measures it.";
const LEGEND = "bar: time · line: forecast error";
const RESTORED = 200; // milliseconds after which the frontend has put a workflow's outputs back
const FLOOR = 1e-5; // forecast error at the foot of a timeline; its head is 1
const SVG = "http://www.w3.org/2000/svg";

const panels = new WeakMap(); // node -> its element

const STYLE = `
.encore-panel { --encore-bar: #4f8fdc; --encore-line: #e08a2e; box-sizing: border-box; width: 100%; height: 100%;
  display: flex; flex-direction: column; gap: 4px; padding: 6px 8px; overflow: hidden; border-radius: 6px;
  font: 12px/1.35 system-ui, sans-serif; color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222); }
.encore-panel > * { flex: none; }
.encore-panel .head { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 18px; }
.encore-panel .big { font-size: 19px; font-weight: 600; }
.encore-panel .faint { color: var(--descrip-text, #999); }
.encore-panel .line { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.encore-panel .notes { flex: 0 1 auto; min-height: 0; overflow-y: auto; overflow-wrap: anywhere; white-space: pre-line; user-select: text; }
.encore-panel .lane { display: flex; flex-direction: column; flex: 1 1 26px; min-height: 22px; }
.encore-panel .lane svg { flex: 1 1 0; width: 100%; min-height: 0; display: block; }
.encore-panel .title { flex: none; display: flex; justify-content: space-between; gap: 12px; white-space: nowrap; }
.encore-panel .track { fill: currentColor; opacity: 0.09; }
.encore-panel .bar { fill: var(--encore-bar); }
.encore-panel .error { fill: none; stroke: var(--encore-line); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.encore-panel .hit { fill: transparent; }
.encore-panel g:hover .hit { fill: currentColor; fill-opacity: 0.16; }
`;

/** An HTML element with a class and children; strings become text, never markup. */
function make(tag, name, ...children) {
  const element = document.createElement(tag);
  element.className = name;
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** An SVG element with attributes and children. */
function draw(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const ratio = (value) => `${value.toFixed(2)}×`;
const mebibytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

function seconds(value) {
  if (value >= 100) return `${value.toFixed(0)} s`;
  return value >= 1 ? `${value.toFixed(2)} s` : `${(1000 * value).toFixed(0)} ms`;
}

/** What one evaluation did, for the pointer that rests on it. */
function describe(entry) {
  const lines = [`step ${entry.step}, sigma ${entry.sigma.toFixed(4)}: ${entry.computed ? "computed" : "forecast"}`];
  lines.push(`${(1000 * entry.seconds).toFixed(1)} ms`);
  if (isNumber(entry.error)) lines.push(`its forecast would have been off by ${entry.error.toExponential(1)}`);
  lines.push(entry.reason);
  return lines.join("\n");
}

/** Height of a forecast error above the foot, 0 to 100, on a logarithmic axis from FLOOR to 1. */
function climb(error) {
  const clamped = Math.min(Math.max(error, FLOOR), 1);
  return 100 * (1 - Math.log10(clamped) / Math.log10(FLOOR));
}

/** A timeline of one run: a bar for each evaluation, filled up to its time where it was computed, and the errors as a line. */
function timeline(run, tallest) {
  const count = Math.max(run.entries.length, 1);
  const svg = draw("svg", { viewBox: `0 0 ${10 * count} 100`, preserveAspectRatio: "none", role: "img" });
  run.entries.forEach((entry, n) => {
    const group = draw("g", {}, draw("rect", { class: "track", x: 10 * n + 0.6, y: 0, width: 8.8, height: 100 }));
    if (entry.computed) {
      const height = Math.min(Math.max((100 * entry.seconds) / tallest, 6), 100);
      group.append(draw("rect", { class: "bar", x: 10 * n + 0.6, y: 100 - height, width: 8.8, height }));
    }
    const title = draw("title", {}, describe(entry));
    group.append(draw("rect", { class: "hit", x: 10 * n, y: 0, width: 10, height: 100 }, title));
    svg.append(group);
  });
  const known = run.entries.map((entry, n) => [n, entry.error]).filter(([, error]) => isNumber(error));
  const points = known.map(([n, error]) => `${10 * n + 5},${100 - climb(error)}`).join(" ");
  if (known.length > 1) svg.append(draw("polyline", { class: "error", points, "pointer-events": "none" }));
  return svg;
}

/** The longest usual evaluation of `runs` in seconds: a single slow one, such as the first, must not flatten the others. */
function tallest(runs) {
  const times = runs.flatMap((run) => run.entries.filter((entry) => entry.computed).map((entry) => entry.seconds));
  times.sort((a, b) => a - b);
  return 1.15 * (times[Math.floor(0.9 * (times.length - 1))] ?? 0) || 1;
}

/** How a run was: `computed` of `evaluations`, its time, its cache. */
function summary(run) {
  const parts = [`${run.computed} of ${run.evaluations} computed`, seconds(run.seconds)];
  if (run.reused > 0 && run.seconds > 0) parts.push(`est. ${ratio(run.seconds_if_computed / run.seconds)}`);
  return parts.join(" · ");
}

/** What the user should know about a run: its notes, and why nothing was forecast if nothing was. */
function remarks(run) {
  const idle = run.source && run.reused === 0 ? run.entries.at(-1)?.reason : null;
  return idle && !run.notes.length ? [`Computed everything: ${idle}.`] : run.notes;
}

/** An element of a run's remarks, or null if there are none. */
function remarksOf(run, name) {
  const lines = remarks(run);
  const element = lines.length ? make("div", name, lines.join("\n")) : null;
  if (element) element.title = lines.join("\n");
  return element;
}

function lane(run, label, scale) {
  const name = make("div", "title faint", make("span", "line", label), make("span", "", LEGEND));
  name.title = "filled: computed, its height the time; empty: forecast; line: forecast error, from 1e-5 to 1";
  const box = make("div", "lane", name);
  box.append(timeline(run, scale));
  return box;
}

/** The head of a comparison: measured ratios, and what they are made of. */
function headOfComparison({ run, baseline, comparison }) {
  const head = make("div", "head");
  if (isNumber(comparison.speedup)) head.append(make("span", "big", `${ratio(comparison.speedup)} speed`));
  if (isNumber(comparison.macs_reduction)) head.append(make("span", "big", `${ratio(comparison.macs_reduction)} fewer MACs`));
  const detail = `${seconds(run.seconds)} instead of ${seconds(baseline.seconds)} · cache ${mebibytes(run.peak_bytes)}`;
  return [head, make("div", "line", detail)];
}

function headOfRun({ run }) {
  const line = make("div", "line", `${summary(run)} · cache ${mebibytes(run.peak_bytes)}`);
  line.title = ESTIMATE;
  return [line];
}

/** Fill the panel of Encore Report with what its execution returned. */
function showReport(panel, content) {
  const { run, baseline } = content;
  const scale = tallest(baseline ? [baseline, run] : [run]);
  const lanes = [[baseline, baseline?.recipe], [run, run.recipe]].filter(([each]) => each);
  panel.replaceChildren(
    ...(content.comparison ? headOfComparison(content) : headOfRun(content)),
    ...[remarksOf(run, "notes")].filter(Boolean),
    ...lanes.map(([each, name]) => lane(each, `${name}: ${each.computed} of ${each.evaluations} computed`, scale)),
  );
}

/** Fill the panel of a node that carries a cache with its last run. */
function showLine(panel, run) {
  const line = make("div", "line", summary(run));
  line.title = ESTIMATE;
  const box = make("div", "lane");
  box.append(timeline(run, tallest([run])));
  panel.replaceChildren(...[line, remarksOf(run, "line faint"), box].filter(Boolean));
}

/** Size of the panel that belongs on a node, if one does: on the report, and on every node of ours that gives a model. */
function sizeOf(node) {
  if (node.comfyClass === "EncoreReport") return REPORT;
  return /^Encore/.test(node.comfyClass) && node.outputs?.some(({ type }) => type === "MODEL") ? CARRIER : null;
}

/** Put an empty panel on a node. It is drawn only: nothing of it is saved or sent. */
function addPanel(node, [least, height]) {
  const panel = make("div", "encore-panel", make("div", "faint", EMPTY[node.comfyClass] ?? WAITING));
  const widget = node.addDOMWidget("encore_report", "ENCORE_REPORT", panel, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => height,
    getValue: () => undefined,
    setValue: () => {},
  });
  widget.serialize = false;
  const [width, tall] = node.computeSize();
  node.setSize([Math.max(node.size[0], width, least), Math.max(node.size[1], tall)]);
  panels.set(node, panel);
  return panel;
}

/** The node with an execution id: "7", or "3:7" for node 7 inside subgraph node 3. */
function find(id) {
  let graph = app.rootGraph ?? app.graph;
  const path = String(id).split(":");
  const last = path.pop();
  for (const step of path) graph = graph?.getNodeById(Number(step))?.subgraph;
  return graph?.getNodeById(Number(last));
}

app.registerExtension({
  name: "encore.report",

  setup() {
    document.head.append(make("style", "", STYLE));
    api.addEventListener(EVENT, ({ detail }) => {
      const node = find(detail.node);
      if (node && panels.has(node)) showLine(panels.get(node), detail.run);
    });
  },

  /** Shows the last report again when its workflow comes back to the front; the outputs come back just after the nodes. */
  loadedGraphNode(node) {
    if (node.comfyClass !== "EncoreReport" || !panels.has(node)) return;
    setTimeout(() => {
      const content = app.nodeOutputs?.[node.id]?.encore_report?.[0];
      if (content) showReport(panels.get(node), content);
    }, RESTORED);
  },

  nodeCreated(node) {
    const size = sizeOf(node);
    if (!size) return;
    const panel = addPanel(node, size);
    if (node.comfyClass !== "EncoreReport") return;
    const before = node.onExecuted;
    node.onExecuted = function (output) {
      before?.apply(this, arguments);
      const content = output?.encore_report?.[0];
      if (content) showReport(panel, content);
    };
  },
});
