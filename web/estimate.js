/**
 * What each PostDiff node of a graph will do, before it runs. Works on what graph.js reads; touches neither canvas nor
 * server. Exact under uniform timesteps; other schedulers move the steps a little, so the result is called an estimate.
 */

import { plan, stepAtUniformTimesteps } from "./plan.js";
import { DISTILLED, PRESETS, UNKNOWN } from "./presets.js";

const TECHNIQUE = {
  MixedResolutionKSampler: "mixed_resolution",
  MixedResolutionPatch: "mixed_resolution",
  DeepCachePatch: "deep_cache",
  CrossAttnCachePatch: "cross_attn_cache",
  CFGCutoff: "cfg_cutoff",
};
const SETTINGS = {
  mixed_resolution: ["low_res_scale", "low_res_until"],
  deep_cache: ["interval", "start_percent", "end_percent"],
  cross_attn_cache: ["start_percent"],
  cfg_cutoff: ["start_percent"],
};
const RUN = ["steps", "denoise", "start_at_step", "end_at_step", "preset", "cfg", "sampler_name"];

/** The types of links that carry several things of a run, the model among them: rgthree's, Easy-Use's, Impact's. */
const BUNDLE = /CONTEXT|PIPE/;

const STEPS_WITHOUT_SAMPLER = 20;

/** The nodes that show a timeline, and the techniques each one shows. */
export const TECHNIQUES_OF = {
  MixedResolutionKSampler: Object.keys(SETTINGS),
  PostDiffKSampler: Object.keys(SETTINGS),
  MixedResolutionPatch: ["mixed_resolution"],
  DeepCachePatch: ["deep_cache"],
  CrossAttnCachePatch: ["cross_attn_cache"],
  CFGCutoff: ["cfg_cutoff"],
};

/** The widgets an estimate depends on. */
export const WIDGETS = new Set([...RUN, ...Object.values(SETTINGS).flat(), "value"]);

const NOTHING = new Map();

/** What a run is asked for: by the preset nearest its sampler, looked up last, and by patches, which hold against it. */
const NONE = { preset: () => ({}), patches: {} };

/** A value that only the run knows; `text` and `values` as words.js takes them. */
class SetAtRunTime extends Error {
  constructor(text, values) {
    super(text);
    this.values = values;
  }
}

/**
 * Map: execution id of each PostDiff node -> {steps, notes, scale, node, sampler, nodes, problem, ...}.
 * `sampler` is the node whose steps are shown, null if the links lead to none; `nodes` are it and every PostDiff node of
 * its run; `problem` says why there are no steps, as [text, values] for words.js.
 *
 * `chosen`: execution id of a sampler -> {preset, settings, recognised, model}: what its preset gave in an earlier run.
 * With it, `recognised` is what auto took the model for, and `unlearned` what would be estimated without it. `model` is
 * what auto looks at, as far as the page can tell.
 */
export function estimates(graph, chosen = NOTHING) {
  const found = new Map();
  for (const sampler of graph.values()) {
    if (!isSampler(graph, sampler)) continue;
    const path = upstream(graph, sampler);
    const shown = [sampler, ...path].filter((each) => each.type in TECHNIQUES_OF && !found.has(each.id));
    if (shown.length === 0) continue;
    const estimate = attempt(() => planOfRun(graph, sampler, path, chosen));
    if (chosen.has(sampler.id)) estimate.unlearned = attempt(() => planOfRun(graph, sampler, path, NOTHING));
    const running = [sampler, ...path].filter((each) => each === sampler || each.type in TECHNIQUES_OF);
    const nodes = running.map(({ node }) => node);
    for (const each of shown) found.set(each.id, { ...estimate, node: each.node, sampler, nodes });
  }
  for (const patch of graph.values()) {
    if (!(patch.type in TECHNIQUES_OF) || found.has(patch.id)) continue;
    const run = { total: STEPS_WITHOUT_SAMPLER, reached: (p) => stepAtUniformTimesteps(STEPS_WITHOUT_SAMPLER, p) };
    const estimate = attempt(() => lay(techniques(graph, patch, NONE, run), run));
    found.set(patch.id, { ...estimate, node: patch.node, sampler: null, nodes: [patch.node] });
  }
  return found;
}

function attempt(work) {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof SetAtRunTime) && !(error instanceof RangeError)) throw error;
    return { steps: [], notes: [], problem: [error.message, error.values] };
  }
}

function planOfRun(graph, sampler, path, chosen) {
  const choice = path.find((each) => choosesModel(graph, each));
  if (choice && path.some(({ type }) => type in TECHNIQUES_OF)) throw setThroughLink("model");
  const run = { ...runOf(graph, sampler), root: choice ?? path.at(-1), chosen };
  let asked = NONE;
  for (const each of [...path].reverse()) asked = techniques(graph, each, asked, run);
  const laid = lay(techniques(graph, sampler, asked, run), run);
  return hasNoGuidance(graph, sampler) ? { ...laid, steps: laid.steps.map((step) => ({ ...step, cfg: "off" })) } : laid;
}

/** Whether no negative prompt runs: at cfg 1, but for the samplers that read its prediction. */
function hasNoGuidance(graph, sampler) {
  const { guider: guiderLink, sampler: chosenLink } = sampler.links;
  const guider = guiderLink ? graph.get(guiderLink.id) : sampler;
  const chosen = chosenLink ? graph.get(chosenLink.id) : sampler;
  if (guider?.type === "BasicGuider") return true;
  if (!guider || !chosen || (guiderLink && guider.type !== "CFGGuider")) return false;
  try {
    return valueOf(graph, guider, "cfg") === 1 && !String(valueOf(graph, chosen, "sampler_name")).endsWith("_cfg_pp");
  } catch (error) {
    if (!(error instanceof SetAtRunTime)) throw error;
    return false;
  }
}

function lay({ preset, patches }, { total, reached }) {
  const { assumption, recognised, model, ...settings } = { ...preset(), ...patches };
  const { steps, notes } = plan(settings, total, reached);
  return {
    steps,
    notes: assumption ? [assumption, ...notes] : notes,
    scale: settings.mixed_resolution?.low_res_scale ?? 1,
    recognised,
    model,
  };
}

/** `asked` with what a node adds. The same patch twice: the later holds, and so of two presets. */
function techniques(graph, entry, asked, run) {
  if (entry.type === "PostDiffKSampler") return { ...asked, preset: () => preset(graph, entry, run) };
  const technique = TECHNIQUE[entry.type];
  if (!technique) return asked;
  const own = Object.fromEntries(SETTINGS[technique].map((name) => [name, valueOf(graph, entry, name)]));
  return { ...asked, patches: { ...asked.patches, [technique]: own } };
}

function preset(graph, entry, { total, root, chosen }) {
  const name = valueOf(graph, entry, "preset");
  const learned = chosen.get(entry.id);
  if (name !== "auto") {
    if (Object.hasOwn(PRESETS, name)) return PRESETS[name];
    if (learned?.preset === name) return learned.settings;
    const offered = entry.node.widgets?.find((widget) => widget.name === "preset")?.options?.values;
    if (Array.isArray(offered) && !offered.includes(name))
      throw new SetAtRunTime("The preset “{name}” is not on this machine: choose another, or auto.", { name });
    throw new SetAtRunTime("The preset “{name}” is shown when the run starts.", { name });
  }
  if (root?.type === "PostDiffEmbeddedModel") return PRESETS.embedded;
  const fewSteps =
    total <= DISTILLED.maxSteps && valueOf(graph, entry, "cfg") <= DISTILLED.maxCfg;
  const distilled = fewSteps || valueOf(graph, entry, "sampler_name") === "lcm";
  const model = JSON.stringify([root?.type, root?.node.widgets?.map(({ value }) => value), distilled]);
  if (learned?.preset === "auto" && learned.model === model)
    return { ...learned.settings, recognised: learned.recognised, model };
  if (distilled) {
    const assumption = "auto: drawn for LCM on SD1.5; the run recognises yours.";
    return { ...PRESETS.lcm, assumption, model };
  }
  const assumption = "auto: drawn for an unknown model; the run recognises yours.";
  return { ...UNKNOWN, assumption, model };
}

/** How many steps a sampler runs, and where a fraction of the whole schedule falls in them. */
function runOf(graph, sampler) {
  const source = sampler.links.sigmas ? graph.get(sampler.links.sigmas.id) : sampler;
  if (!source || !hasInput(source, "steps")) throw new SetAtRunTime("The steps come from the sigmas at run time.");
  const steps = valueOf(graph, source, "steps");
  const denoise = hasInput(source, "denoise") ? valueOf(graph, source, "denoise") : 1;
  let schedule = steps;
  let first = 0;
  let last = steps;
  if (hasInput(source, "start_at_step")) {
    first = Math.min(valueOf(graph, source, "start_at_step"), steps);
    last = Math.min(valueOf(graph, source, "end_at_step"), steps);
  } else if (denoise < 0.9999) {
    schedule = denoise > 0 ? Math.trunc(steps / denoise) : steps;
    first = denoise > 0 ? schedule - steps : schedule;
    last = schedule;
  }
  const total = Math.max(0, last - first);
  const reached = (p) => Math.min(total, Math.max(0, stepAtUniformTimesteps(schedule, p) - first));
  return { total, reached };
}

const hasInput = (entry, name) => name in entry.values || name in entry.links;

/** Ours count before a model is connected. Steps without a widget are handed on; as text, they are several to try. */
const isSampler = (graph, entry) =>
  (entry.outputs.includes("LATENT") || entry.outputs.includes("IMAGE")) &&
  (entry.type in TECHNIQUES_OF ||
    (modelLinks(graph, entry).length > 0 && (typeof entry.values.steps === "number" || "sigmas" in entry.links)));

/** The links that a node may take its model from, the first of which it takes, if it does not choose. */
function modelLinks(graph, entry) {
  const links = Object.values(entry.links);
  const isModel = (type) => type === "MODEL" || type === "GUIDER";
  const models = links.filter(({ id, slot, type }) => isModel(type) || isModel(graph.get(id)?.outputs[slot]));
  return models.length > 0 ? models : links.filter(({ type }) => BUNDLE.test(type));
}

/** Whether only the run knows which of several models a node hands on; rgthree's switches take the first. */
const choosesModel = (graph, entry) =>
  /switch/i.test(entry.type) && !entry.type.endsWith("(rgthree)") && modelLinks(graph, entry).length > 1;

/** The nodes a model comes through, nearest first; a guider counts as one of them. */
function upstream(graph, entry, path = []) {
  const links = modelLinks(graph, entry);
  for (const { id } of choosesModel(graph, entry) ? links : links.slice(0, 1)) {
    const source = graph.get(id);
    if (!source || path.includes(source)) continue;
    path.push(source);
    upstream(graph, source, path);
  }
  return path;
}

/** A setting's value, through primitives; it throws where another node computes it. */
function valueOf(graph, entry, name) {
  const seen = new Set();
  for (let at = entry, input = name; at && !seen.has(at); input = "value") {
    seen.add(at);
    const link = at.links[input];
    if (!link && at.values[input] !== undefined) return at.values[input];
    at = link && graph.get(link.id);
    if (!at?.type.startsWith("Primitive")) break;
  }
  throw setThroughLink(name);
}

const setThroughLink = (name) =>
  new SetAtRunTime("{name} comes through a link: shown when the run starts.", { name });
