/** The step timeline: one DOM widget on every PostDiff node. Before a run an estimate, then the run's own plan. */

import { app } from "../../scripts/app.js";
import { drawTimeline, inWords, legend, pictureHeight, resultLine } from "./drawing.js";
import { TECHNIQUES_OF } from "./estimate.js";
import { allNodes, isBypassed, isMuted } from "./graph.js";
import { activeWorkflow, estimatesNow, followRuns, latest, runsOf, runWith, settingsOf } from "./runs.js";
import { STYLE } from "./style.js";
import { wordsOf } from "./words.js";

const MARGIN = 6;
const REFRESH_MS = 120;
const PADDING = 11; // above and below, as in style.js
const LINE = 15;

/** Node -> its timeline. */
const timelines = new WeakMap();
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

function viewOfEstimate({ node, steps, scale = 1, notes, problem, sampler, badge, recognised }, say) {
  const total = steps.length;
  const whole = () => {
    if (sampler?.node === node) return say("{total} steps", { total });
    if (sampler) return say("{total} steps of {title}", { total, title: sampler.title });
    return say("{total} steps, no sampler found", { total });
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

function inactive(node) {
  const why = isMuted(node)
    ? "Muted: this node does not run."
    : isBypassed(node) && "Bypassed: this node does nothing.";
  return { steps: [], notes: [], badge: "", problem: [why || "Inside a node that does not run."] };
}

app.registerExtension({
  name: "postdiff.timeline",
  nodeCreated(node) {
    if (TECHNIQUES_OF[node.comfyClass]) timelines.set(node, new Timeline(node));
  },
  async setup() {
    // Values change through widgets, links, primitives, undo and scripts; no event tells of all of them in both
    // render modes, so the graph is read again and again.
    setInterval(refresh, REFRESH_MS);
    await followRuns(refresh);
  },
});
