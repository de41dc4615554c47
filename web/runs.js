/** What the server says about the runs of this page's prompts, kept by workflow and node; draws nothing. */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { WIDGETS, estimates } from "./estimate.js";
import { readGraph } from "./graph.js";

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

/** What a run must have begun with to be shown: the plan, the model that auto saw, the values of all nodes that make it. */
export function settingsOf({ nodes = [], unlearned, ...learned }) {
  const { steps, scale, model } = unlearned ?? learned; // what the run itself teaches must not outdate it
  const changing = ["seed", "noise_seed", "control_after_generate"];
  const widgets = nodes.flatMap((node) => node.widgets ?? []).filter(({ name }) => !changing.includes(name));
  return JSON.stringify([steps, scale, model, widgets.map(({ value }) => value)]);
}

export const latest = (a, b) => (!b || a?.began > b.began ? a : b);

/** Of a node's runs that with the sampler its links lead to; the last one if they lead to none, or to one of no run. */
export function runWith(sampler, ofSamplers = new Map()) {
  return ofSamplers.get(sampler?.id) ?? [...ofSamplers.values()].reduce(latest, undefined);
}

export const activeWorkflow = () => app.extensionManager.workflow?.activeWorkflow ?? app;

export const runsOf = (workflow) => mapOf(runs, workflow);
const choicesOf = (workflow) => mapOf(choices, workflow);

function mapOf(maps, key) {
  if (!maps.has(key)) maps.set(key, new Map());
  return maps.get(key);
}

export const estimatesNow = () => estimates(readGraph(app.rootGraph, WIDGETS), choicesOf(activeWorkflow()));

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
}

function onProgress({ detail }) {
  const { node, sampler_node: sampler, prompt_id: prompt, step = null, report = null } = detail;
  if (report && resumed.has(prompt)) onPlan({ detail: { ...detail, ...planIn(report) } });
  const run = runsOfPrompt(prompt).get(String(node))?.get(String(sampler));
  if (run?.prompt !== prompt) return;
  Object.assign(run, { step, report });
}

function planIn({ plan, notes, size, low_size: low }) {
  return { plan, notes, scale: low ? Math.sqrt((low[0] * low[1]) / (size[0] * size[1])) : 1 };
}

/** However a prompt ends, no step of it is marked any more; a run that did not finish leaves the estimate. */
function onEnd({ detail: { prompt_id: prompt } }) {
  for (const ofSamplers of runsOfPrompt(prompt).values())
    for (const [sampler, run] of ofSamplers) if (run.prompt === prompt && !run.report) ofSamplers.delete(sampler);
  originOfPrompt.delete(prompt);
}

/** Follow the server's events; `changed` is called after each that changes what is known. */
export async function followRuns(changed) {
  const then = (follow) => (event) => {
    follow(event);
    changed();
  };
  api.addEventListener("promptQueueing", onQueueing);
  api.addEventListener("promptQueued", onQueued);
  api.addEventListener("execution_start", onStart);
  api.addEventListener("postdiff.preset", onPreset);
  api.addEventListener("postdiff.plan", then(onPlan));
  for (const event of ["postdiff.step", "postdiff.report"]) api.addEventListener(event, then(onProgress));
  for (const end of ["execution_success", "execution_error", "execution_interrupted"])
    api.addEventListener(end, then(onEnd));
  for (const [, prompt] of (await queue()).queue_running) resumed.add(prompt);
}
