/** The step timeline: one DOM widget on every PostDiff node. Before a run an estimate, then the run's own plan. */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { drawTimeline, inWords, legend, pictureHeight, resultLine } from "./drawing.js";
import { TECHNIQUES_OF, WIDGETS, estimates } from "./estimate.js";
import { allNodes, isBypassed, isMuted, readGraph } from "./graph.js";
import { STYLE } from "./style.js";
import { wordsOf } from "./words.js";

const MARGIN = 6;
const REFRESH_MS = 120;
const PADDING = 11; // above and below, as in style.js
const LINE = 15;

/** Node -> its timeline. */
const timelines = new WeakMap();
/**
 * Workflow -> execution id -> execution id of the sampler -> what the server said about its last run with the node.
 * Outlives undo, redo, other tabs.
 */
const runs = new WeakMap();
/** Workflow -> execution id of a sampler -> what its preset gave last (see `estimates`). */
const choices = new WeakMap();
/** Prompt -> where it was queued from (see `queuedNow`), until it ends. */
const originOfPrompt = new Map();
/** Where a prompt that is being handed to the server comes from; its run may begin before its number is known. */
let queueing = null;
/** Prompts that ran when the page was loaded: of those it queued itself before, it sees the rest of the events. */
const resumed = new Set();
/** Request -> where the prompt that it hands to the server comes from. */
const originOfRequest = new Map();

class Timeline {
  constructor(node) {
    this.node = node;
    this.techniques = TECHNIQUES_OF[node.comfyClass];
    const lines = this.techniques.length > 1 ? 3 : 2; // the status and the legend
    this.smallest = pictureHeight(this.techniques) + 5 + lines * LINE + PADDING;
    this.height = this.smallest;
    this.element = document.createElement("div");
    this.element.className = "postdiff-timeline";
    this.element.dataset.testid = "postdiff-timeline";
    this.element.innerHTML =
      STYLE +
      `<div class="content"><div class="picture"></div>` +
      `<div class="status" data-testid="postdiff-status"><em class="badge"></em><span></span></div>` +
      `<div class="notes" data-testid="postdiff-notes"></div><div class="legend"></div></div>`;
    this.addWidget();
    this.passOnEvents();
  }

  addWidget() {
    const height = () => this.height + 2 * MARGIN;
    this.widget = this.node.addDOMWidget("timeline", "postdiff_timeline", this.element, {
      serialize: false, // not in the prompt
      hideOnZoom: false,
      hideInPanel: true, // the panel's width would become the timeline's
      margin: MARGIN,
      getMinHeight: height,
      getMaxHeight: height,
      getValue: () => "",
      setValue: () => {},
    });
    this.widget.serialize = false; // not in the workflow
  }

  /** What is done to the timeline is done to the node under it, or to the canvas. */
  passOnEvents() {
    this.element.addEventListener("wheel", zoomCanvas);
    for (const type of ["pointerdown", "pointermove", "pointerup"])
      this.element.addEventListener(type, (event) => this.pressNode(event));
    this.element.addEventListener("contextmenu", (event) => event.preventDefault()); // the node has a menu of its own
  }

  /** Select the node, drag it, open its menu. Left alone, both render modes keep a press to the widget. */
  pressNode(event) {
    if (window.LiteGraph.vueNodesMode) {
      const node = this.element.closest("[data-node-id]");
      node?.dispatchEvent(new PointerEvent(event.type, event));
    } else if (event.type === "pointerdown") {
      this.widget.computedDisabled = true; // a disabled widget does not take the press
      app.canvas.processMouseDown(event); // captures the pointer: what follows goes to the canvas itself
      this.widget.computedDisabled = false;
    }
  }

  /** Show the run's own plan as long as the settings are those it was queued with, else the estimate. */
  show(estimate, language) {
    const say = wordsOf(language);
    const run = estimate.run;
    const settings = settingsOf(estimate);
    if (run) run.settings ??= settings;
    const isOutdated = run && run.settings !== settings && run.step === null;
    const isSampler = estimate.sampler?.node === estimate.node;
    const view = run && !isOutdated ? viewOfRun(run, isSampler, say) : viewOfEstimate(estimate, say);
    const drawn = JSON.stringify([language, view]);
    if (drawn !== this.drawn) this.draw(view, say);
    this.drawn = drawn;
    this.fit();
  }

  draw({ state, badge, text, steps, scale, notes, step }, say) {
    const part = (name) => this.element.querySelector(name);
    const kind = state === "estimate" ? say("Estimate") : say("Plan");
    const label = steps.length ? inWords(steps, this.techniques, kind, say) : text;
    this.element.dataset.state = state;
    part(".badge").textContent = badge;
    part(".status span").textContent = part(".status span").title = text;
    part(".notes").textContent = notes.map((note) => say(note)).join(" ");
    part(".legend").innerHTML = legend(steps, this.techniques, say);
    part(".picture").innerHTML = steps.length
      ? drawTimeline({ steps, scale, techniques: this.techniques, label, step, say })
      : "";
  }

  /** Take the height that the text needs at the node's width. */
  fit() {
    const needed = this.element.querySelector(".content").offsetHeight;
    const height = needed ? Math.max(this.smallest, needed + PADDING) : this.height;
    if (height === this.height) return;
    this.height = height;
    const redraw = () => this.node.setDirtyCanvas(true, true);
    redraw();
    requestAnimationFrame(() => requestAnimationFrame(redraw)); // the frame that grows the node has drawn its body
  }

  /** Nodes 2.0 keeps showing the element of a node that undo has replaced: put the living one in its place. */
  adopt() {
    if (this.element.isConnected || this.node.graph !== app.canvas?.graph) return;
    const shown = document.querySelector(`[data-node-id="${this.node.id}"] [data-testid=postdiff-timeline]`);
    shown?.replaceWith(this.element);
  }
}

/** What a run must have begun with to be shown: the plan, the model that auto saw, the values of all nodes that make it. */
function settingsOf({ nodes = [], unlearned, ...learned }) {
  const { steps, scale, model } = unlearned ?? learned; // what the run itself teaches must not outdate it
  const changing = ["seed", "noise_seed", "control_after_generate"];
  const widgets = nodes.flatMap((node) => node.widgets ?? []).filter(({ name }) => !changing.includes(name));
  return JSON.stringify([steps, scale, model, widgets.map(({ value }) => value)]);
}

function viewOfEstimate({ node, steps, scale = 1, notes, problem, sampler, badge, recognised }, say) {
  const total = steps.length;
  const whole = () => {
    if (sampler?.node === node) return say("{total} steps", { total });
    if (sampler) return say("{total} steps of {title}", { total, title: sampler.title });
    return say("{total} steps, no sampler yet", { total });
  };
  const text = problem ? say(...problem) : withModel(whole(), recognised);
  return { state: "estimate", badge: badge ?? say("estimate"), text, steps, scale, notes, step: null };
}

/** What `auto` took the model for. */
const withModel = (text, recognised) => (recognised ? `${text} · auto: ${recognised}` : text);

function viewOfRun({ steps, scale, notes, step, report, recognised }, isSampler, say) {
  const view = { steps, scale, notes: report?.notes ?? notes, step };
  const result = () => withModel(resultLine(report, say), recognised);
  // A patch's own share is not known.
  if (report) return { ...view, state: "measured", badge: isSampler ? "" : say("whole run"), text: result() };
  const total = steps.length;
  if (step === null) return { ...view, state: "running", badge: say("starting"), text: say("{total} steps", { total }) };
  return { ...view, state: "running", badge: say("step {n}", { n: step + 1 }), text: say("of {total}", { total }) };
}

/** Nodes 2.0 does so by itself. */
function zoomCanvas(event) {
  if (!window.LiteGraph.vueNodesMode) app.canvas.processMouseWheel(event);
}

function refresh() {
  if (document.hidden) return;
  const shown = [...allNodes(app.rootGraph)].filter((node) => timelines.has(node));
  if (shown.length === 0) return;
  const known = runsOf(activeWorkflow());
  const found = new Map();
  for (const [id, estimate] of estimatesNow()) {
    // A subgraph used twice holds one node with two ids.
    const run = latest(runWith(estimate.sampler, known.get(id)), found.get(estimate.node)?.run);
    found.set(estimate.node, { ...estimate, run });
  }
  const language = app.extensionManager.setting.get("Comfy.Locale");
  for (const node of shown) {
    timelines.get(node).adopt();
    timelines.get(node).show(found.get(node) ?? inactive(node), language);
  }
}

const latest = (a, b) => (!b || a?.began > b.began ? a : b);

/** Of a node's runs that with the sampler its links lead to; the last one if they lead to none, or to one of no run. */
function runWith(sampler, ofSamplers = new Map()) {
  return ofSamplers.get(sampler?.id) ?? [...ofSamplers.values()].reduce(latest, undefined);
}

function inactive(node) {
  const why = isMuted(node)
    ? "Muted: this node does not run."
    : isBypassed(node) && "Bypassed: this node does nothing.";
  return { steps: [], notes: [], badge: "", problem: [why || "Inside a node that does not run."] };
}

const activeWorkflow = () => app.extensionManager.workflow?.activeWorkflow ?? app;

const runsOf = (workflow) => mapOf(runs, workflow);
const choicesOf = (workflow) => mapOf(choices, workflow);

function mapOf(maps, key) {
  if (!maps.has(key)) maps.set(key, new Map());
  return maps.get(key);
}

const estimatesNow = () => estimates(readGraph(app.rootGraph, WIDGETS), choicesOf(activeWorkflow()));

/** The active workflow, and by execution id the settings that its nodes have now and the models before them. */
function queuedNow() {
  const [settings, models] = [new Map(), new Map()];
  for (const [id, estimate] of estimatesNow()) {
    settings.set(id, settingsOf(estimate));
    models.set(id, estimate.model);
  }
  return { workflow: activeWorkflow(), settings, models };
}

const workflowOf = (prompt) => originOfPrompt.get(prompt)?.workflow ?? activeWorkflow();
const runsOfPrompt = (prompt) => runsOf(workflowOf(prompt));

function onQueueing({ detail: { requestId: request } }) {
  queueing = queuedNow();
  originOfRequest.set(request, queueing);
}

/** The server's events name the prompt only: what it has not been asked about before belongs to this request. */
async function onQueued({ detail: { requestId: request } }) {
  const origin = originOfRequest.get(request) ?? queuedNow();
  originOfRequest.delete(request);
  const { queue_running: running, queue_pending: pending } = await queue();
  for (const [, prompt, , { client_id: client }] of [...running, ...pending])
    if (client === api.clientId && !originOfPrompt.has(prompt)) originOfPrompt.set(prompt, origin);
  if (queueing === origin) queueing = null;
}

const queue = async () => (await api.fetchApi("/queue")).json();

function onStart({ detail: { prompt_id: prompt } }) {
  if (!originOfPrompt.has(prompt)) originOfPrompt.set(prompt, queueing ?? queuedNow());
}

function onPreset({ detail: { node, prompt_id: prompt, preset, settings, recognised } }) {
  const model = originOfPrompt.get(prompt)?.models.get(String(node));
  choicesOf(workflowOf(prompt)).set(String(node), { prompt, preset, settings, recognised, model });
}

function onPlan({ detail: { node, sampler_node: sampler, prompt_id: prompt, plan: steps, scale, notes } }) {
  const settings = originOfPrompt.get(prompt)?.settings.get(String(node));
  const choice = choicesOf(workflowOf(prompt)).get(String(node));
  const recognised = choice?.prompt === prompt ? choice.recognised : "";
  const run = { prompt, settings, recognised, began: performance.now(), steps, scale, notes, step: null, report: null };
  mapOf(runsOfPrompt(prompt), String(node)).set(String(sampler), run);
  refresh();
}

function onProgress({ detail }) {
  const { node, sampler_node: sampler, prompt_id: prompt, step = null, report = null } = detail;
  if (report && resumed.has(prompt)) onPlan({ detail: { ...detail, ...planIn(report) } });
  const run = runsOfPrompt(prompt).get(String(node))?.get(String(sampler));
  if (run?.prompt !== prompt) return;
  Object.assign(run, { step, report });
  refresh();
}

function planIn({ plan, notes, size, low_size: low }) {
  return { plan, notes, scale: low ? Math.sqrt((low[0] * low[1]) / (size[0] * size[1])) : 1 };
}

/** However a prompt ends, no step of it is marked any more; a run that did not finish leaves the estimate. */
function onEnd({ detail: { prompt_id: prompt } }) {
  for (const ofSamplers of runsOfPrompt(prompt).values())
    for (const [sampler, run] of ofSamplers) if (run.prompt === prompt && !run.report) ofSamplers.delete(sampler);
  originOfPrompt.delete(prompt);
  refresh();
}

app.registerExtension({
  name: "postdiff.timeline",
  nodeCreated(node) {
    if (TECHNIQUES_OF[node.comfyClass]) timelines.set(node, new Timeline(node));
  },
  async setup() {
    api.addEventListener("promptQueueing", onQueueing);
    api.addEventListener("promptQueued", onQueued);
    api.addEventListener("execution_start", onStart);
    api.addEventListener("postdiff.preset", onPreset);
    api.addEventListener("postdiff.plan", onPlan);
    for (const event of ["postdiff.step", "postdiff.report"]) api.addEventListener(event, onProgress);
    for (const end of ["execution_success", "execution_error", "execution_interrupted"])
      api.addEventListener(end, onEnd);
    // Values change through widgets, links, primitives, undo and scripts; no event tells of all of them in both
    // render modes, so the graph is read again and again.
    setInterval(refresh, REFRESH_MS);
    for (const [, prompt] of (await queue()).queue_running) resumed.add(prompt);
  },
});
