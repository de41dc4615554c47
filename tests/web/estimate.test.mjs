import assert from "node:assert/strict";
import { test } from "node:test";

import { WIDGETS, estimates } from "../../web/estimate.js";
import { wordsOf } from "../../web/words.js";

/** What graph.js would read, from a graph in the server's own form. */
function graphOf(prompt) {
  const graph = new Map();
  for (const [id, { class_type: type, inputs }] of Object.entries(prompt)) {
    const values = {};
    const links = {};
    for (const [name, value] of Object.entries(inputs)) {
      if (Array.isArray(value)) links[name] = { id: value[0], slot: value[1], type: TYPES[name] ?? "*" };
      if (WIDGETS.has(name) && type !== CONTEXT) values[name] = Array.isArray(value) ? 1 : value; // what it had before
    }
    graph.set(id, { id, type, values, links, outputs: OUTPUTS[type] ?? [], node: id });
  }
  return graph;
}

const CONTEXT = "Context Big (rgthree)";
const TYPES = { model: "MODEL", guider: "GUIDER", sigmas: "SIGMAS", base_ctx: "RGTHREE_CONTEXT" };
const LATENT = ["LATENT"];
const OUTPUTS = {
  CheckpointLoaderSimple: ["MODEL", "CLIP", "VAE"],
  DeepCachePatch: ["MODEL"],
  [CONTEXT]: ["RGTHREE_CONTEXT", "MODEL", "LATENT", "INT"],
  FaceDetailer: ["IMAGE"],
  PostDiffCalibrate: ["COMBO", "IMAGE"],
  KSampler: LATENT,
  KSamplerAdvanced: LATENT,
  SamplerCustomAdvanced: ["LATENT", "LATENT"],
  MixedResolutionKSampler: ["LATENT", "MODEL"],
  PostDiffKSampler: ["LATENT", "MODEL"],
  BasicScheduler: ["SIGMAS"],
  CFGGuider: ["GUIDER"],
  BasicGuider: ["GUIDER"],
};

const model = { class_type: "CheckpointLoaderSimple", inputs: {} };
const sampler = (type, inputs) => ({
  class_type: type,
  inputs: { steps: 20, cfg: 7, denoise: 1, sampler_name: "euler", ...inputs },
});
const cutoff = (from, start_percent = 0.75) => ({
  class_type: "CFGCutoff",
  inputs: { model: [from, 0], start_percent },
});
const mixed = (from, low_res_scale = 0.5, low_res_until = 0.5) => ({
  class_type: "MixedResolutionPatch",
  inputs: { model: [from, 0], low_res_scale, low_res_until },
});
const deepCache = (from, inputs = {}) => ({
  class_type: "DeepCachePatch",
  inputs: { model: [from, 0], interval: 2, depth: 2, start_percent: 0, end_percent: 1, ...inputs },
});

const estimateOf = (prompt, id) => estimates(graphOf(prompt)).get(id);
const problemOf = (prompt, id) => wordsOf("en")(...estimateOf(prompt, id).problem);
const firstOff = ({ steps }) => steps.findIndex((step) => step.cfg === "off");
const low = ({ steps }) => steps.filter((step) => step.stage === "low").length;
const reused = ({ steps }) => steps.filter((step) => step.deep === "reuse").length;

test("a patch takes the steps of the sampler its links lead to", () => {
  const prompt = { 1: model, 2: cutoff("1"), 3: { class_type: "LoraLoaderModelOnly", inputs: { model: ["2", 0] } } };
  prompt[4] = sampler("KSampler", { model: ["3", 0], steps: 8 });
  const estimate = estimateOf(prompt, "2");
  assert.equal(estimate.steps.length, 8);
  assert.equal(firstOff(estimate), 6);
  assert.equal(estimate.sampler.id, "4");
});

test("a patch without a sampler is drawn for twenty steps and says so", () => {
  const estimate = estimateOf({ 1: model, 2: cutoff("1") }, "2");
  assert.equal(estimate.steps.length, 20);
  assert.equal(estimate.sampler, null);
});

test("a sampler shows its own settings and those of the patches on its model", () => {
  const prompt = { 1: model, 2: deepCache("1"), 3: cutoff("2") };
  prompt[4] = sampler("MixedResolutionKSampler", { model: ["3", 0], low_res_scale: 0.5, low_res_until: 0.5 });
  const estimate = estimateOf(prompt, "4");
  assert.deepEqual([low(estimate), reused(estimate), firstOff(estimate)], [10, 10, 15]);
  assert.equal(estimate.scale, 0.5);
  assert.deepEqual(estimateOf(prompt, "2").steps, estimate.steps);
});

test("of the same patch twice, the one nearest the sampler holds", () => {
  const prompt = {
    1: model,
    2: mixed("1", 0.5, 0.25),
    3: mixed("2", 0.75, 0.75),
    4: sampler("KSampler", { model: ["3", 0] }),
  };
  const estimate = estimateOf(prompt, "2");
  assert.equal(low(estimate), 15);
  assert.equal(estimate.scale, 0.75);
});

test("a preset gives way to a patch before it and keeps its other techniques", () => {
  const prompt = { 1: model, 2: cutoff("1", 0.5), 3: sampler("PostDiffKSampler", { model: ["2", 0], preset: "sd15" }) };
  const estimate = estimateOf(prompt, "3");
  assert.deepEqual([low(estimate), reused(estimate), firstOff(estimate)], [10, 10, 10]);
});

test("a preset on the model that another has run takes that one's place, but not the patches'", () => {
  const shown = (first, second) => {
    const prompt = { 1: model, 2: cutoff("1", 0.5) };
    prompt[3] = sampler("PostDiffKSampler", { model: ["2", 0], preset: first });
    prompt[4] = sampler("PostDiffKSampler", { model: ["3", 1], preset: second });
    const estimate = estimateOf(prompt, "4");
    return [low(estimate), reused(estimate), firstOff(estimate)];
  };
  assert.deepEqual(shown("sd15", "off"), [0, 0, 10]);
  assert.deepEqual(shown("sd15", "lcm"), [10, 0, 10]);
  assert.deepEqual(shown("one that only the run knows", "off"), [0, 0, 10]);
});

test("at cfg 1 no step is guided, unless the sampler reads the negative prompt", () => {
  const at = (inputs) => estimateOf({ 1: model, 2: cutoff("1"), 3: sampler("KSampler", { model: ["2", 0], ...inputs }) }, "2");
  assert.equal(firstOff(at({ cfg: 1 })), 0);
  assert.equal(firstOff(at({ cfg: 1, sampler_name: "euler_cfg_pp" })), 15);
  assert.equal(firstOff(at({ cfg: 1.5 })), 15);
  assert.equal(firstOff(at({ cfg: ["9", 0] })), 15);
});

test("so it is where the guidance or the sampler are nodes of their own", () => {
  const at = (guider, sampler_name = "euler") => {
    const prompt = { 1: model, 2: cutoff("1"), 3: { class_type: "BasicScheduler", inputs: { steps: 20, denoise: 1 } } };
    prompt[4] = { class_type: "KSamplerSelect", inputs: { sampler_name } };
    prompt[5] = { ...guider, inputs: { model: ["2", 0], ...guider.inputs } };
    prompt[6] = { class_type: "SamplerCustomAdvanced", inputs: { guider: ["5", 0], sampler: ["4", 0], sigmas: ["3", 0] } };
    return firstOff(estimateOf(prompt, "2"));
  };
  const guided = (cfg) => ({ class_type: "CFGGuider", inputs: { cfg } });
  assert.deepEqual([at(guided(1)), at(guided(2)), at({ class_type: "BasicGuider", inputs: {} })], [0, 15, 0]);
  assert.equal(at(guided(1), "euler_cfg_pp"), 15);
});

test("the preset off leaves the patches before it alone", () => {
  const prompt = { 1: model, 2: cutoff("1"), 3: sampler("PostDiffKSampler", { model: ["2", 0], preset: "off" }) };
  const estimate = estimateOf(prompt, "3");
  assert.deepEqual([low(estimate), reused(estimate), firstOff(estimate)], [0, 0, 15]);
});

test("auto recognises the embedded model and guesses others, saying so", () => {
  const known = { 1: { class_type: "PostDiffEmbeddedModel", inputs: {} } };
  known[2] = sampler("PostDiffKSampler", { model: ["1", 0], preset: "auto" });
  assert.deepEqual(estimateOf(known, "2").notes, []);
  assert.equal(reused(estimateOf(known, "2")), 9); // from step 5 on, 10 and every third computed

  const unknown = estimateOf({ ...known, 1: model }, "2");
  assert.deepEqual([low(unknown), reused(unknown), firstOff(unknown)], [4, 0, 15]);
  assert.match(unknown.notes[0], /unknown model/);
});

test("auto draws what an earlier run recognised, until the model or the kind of run is another", () => {
  const prompt = { 1: model, 2: sampler("PostDiffKSampler", { model: ["1", 0], preset: "auto" }) };
  const learned = (inputs = {}) => {
    const graph = graphOf({ ...prompt, 2: sampler("PostDiffKSampler", { ...prompt[2].inputs, ...inputs }) });
    const settings = { deep_cache: { interval: 2, depth: 2, start_percent: 0, end_percent: 1 } };
    const choice = { preset: "auto", settings, recognised: "sd15", model: estimateOf(prompt, "2").model };
    return estimates(graph, new Map([["2", choice]])).get("2");
  };
  const again = learned({ cfg: 7.5, steps: 30 });
  assert.deepEqual([reused(again), again.recognised, again.notes], [15, "sd15", []]);
  assert.deepEqual([low(again.unlearned), reused(again.unlearned)], [6, 0]);
  assert.match(learned({ cfg: 1, steps: 4 }).notes[0], /LCM on SD1.5/);
  const other = { ...model, class_type: "UNETLoader" };
  assert.notEqual(estimateOf({ ...prompt, 1: other }, "2").model, estimateOf(prompt, "2").model);
});

test("a saved preset is drawn once a run has told what it holds", () => {
  const graph = graphOf({ 1: model, 2: sampler("PostDiffKSampler", { model: ["1", 0], preset: "my own" }) });
  const choice = { preset: "my own", settings: { cfg_cutoff: { start_percent: 0.5 } }, recognised: "" };
  assert.equal(firstOff(estimates(graph, new Map([["2", choice]])).get("2")), 10);
  const stale = new Map([["2", { ...choice, preset: "another" }]]);
  assert.deepEqual(estimates(graph, stale).get("2").steps, []);
});

test("a preset that this machine does not have is named before the run", () => {
  const graph = graphOf({ 1: model, 2: sampler("PostDiffKSampler", { model: ["1", 0], preset: "a friend's" }) });
  graph.get("2").node = { widgets: [{ name: "preset", options: { values: ["auto", "off"] } }] };
  const { problem } = estimates(graph).get("2");
  assert.match(wordsOf("en")(...problem), /“a friend's” is not on this machine/);
});

test("auto takes a model for distilled that runs few steps almost without guidance, or with the sampler lcm", () => {
  const auto = (inputs) =>
    estimateOf({ 1: model, 2: sampler("PostDiffKSampler", { model: ["1", 0], preset: "auto", ...inputs }) }, "2");
  const distilled = auto({ steps: 8, cfg: 1.2 });
  assert.deepEqual([low(distilled), reused(distilled), firstOff(distilled)], [4, 0, 4]);
  assert.match(distilled.notes[0], /LCM on SD1.5/);
  assert.equal(low(auto({ steps: 10, cfg: 1.5 })), 5);
  assert.equal(low(auto({ steps: 20, cfg: 7, sampler_name: "lcm" })), 10);
  for (const other of [auto({ steps: 11, cfg: 1.5 }), auto({ steps: 10, cfg: 1.6 })])
    assert.equal(low(other), Math.ceil(0.2 * other.steps.length));
});

test("a preset the page does not know waits for the run", () => {
  for (const preset of ["my own", "toString"]) {
    const prompt = { 1: model, 2: sampler("PostDiffKSampler", { model: ["1", 0], preset }) };
    assert.deepEqual(estimateOf(prompt, "2").steps, []);
    assert.ok(problemOf(prompt, "2").includes(`“${preset}”`));
  }
});

test("img2img runs the end of a longer schedule", () => {
  const prompt = { 1: model, 2: cutoff("1"), 3: sampler("KSampler", { model: ["2", 0], steps: 20, denoise: 0.5 }) };
  assert.equal(estimateOf(prompt, "2").steps.length, 20);
  assert.equal(firstOff(estimateOf(prompt, "2")), 10); // 0.75 of the whole schedule is half of its second half
});

test("a run without denoising has no steps", () => {
  const prompt = { 1: model, 2: cutoff("1"), 3: sampler("KSampler", { model: ["2", 0], denoise: 0 }) };
  assert.deepEqual(estimateOf(prompt, "2").steps, []);
});

test("a slice of KSamplerAdvanced shows its own steps of the whole schedule", () => {
  const slice = { start_at_step: 5, end_at_step: 10_000, denoise: undefined };
  const prompt = { 1: model, 2: cutoff("1"), 3: sampler("KSamplerAdvanced", { model: ["2", 0], ...slice }) };
  delete prompt[3].inputs.denoise;
  assert.equal(estimateOf(prompt, "2").steps.length, 15);
  assert.equal(firstOff(estimateOf(prompt, "2")), 10);
  prompt[3].inputs.end_at_step = 12;
  assert.equal(estimateOf(prompt, "2").steps.length, 7);
  assert.equal(firstOff(estimateOf(prompt, "2")), -1);
  prompt[3].inputs.start_at_step = 30;
  assert.deepEqual(estimateOf(prompt, "2").steps, []);
});

test("a custom sampler's steps are its scheduler's, through the guider", () => {
  const prompt = { 1: model, 2: mixed("1"), 3: { class_type: "CFGGuider", inputs: { model: ["2", 0] } } };
  prompt[4] = { class_type: "BasicScheduler", inputs: { model: ["2", 0], steps: 12, denoise: 1 } };
  prompt[5] = { class_type: "SamplerCustomAdvanced", inputs: { guider: ["3", 0], sigmas: ["4", 0] } };
  assert.equal(estimateOf(prompt, "2").steps.length, 12);
  prompt[4] = { class_type: "ManualSigmas", inputs: { sigmas: "9,1,0" } };
  assert.match(problemOf(prompt, "2"), /run time/);
});

test("values that come through primitives are followed, computed ones wait for the run", () => {
  const prompt = { 1: model, 2: cutoff("1"), 3: sampler("KSampler", { model: ["2", 0], steps: ["5", 0] }) };
  prompt[5] = { class_type: "PrimitiveInt", inputs: { value: 33 } };
  assert.equal(estimateOf(prompt, "2").steps.length, 33);
  for (const [class_type, value] of [["ComputesSteps", 33], ["PrimitiveInt", ["5", 0]]]) {
    prompt[5] = { class_type, inputs: { value } };
    assert.match(problemOf(prompt, "2"), /steps comes through a link/);
  }
});

test("a model is followed through nodes that bundle it with others, which are no samplers", () => {
  const prompt = { 1: model, 2: deepCache("1"), 6: { class_type: "PrimitiveInt", inputs: { value: 12 } } };
  prompt[3] = { class_type: CONTEXT, inputs: { model: ["2", 0], steps: ["6", 0] } };
  prompt[4] = { class_type: CONTEXT, inputs: { base_ctx: ["3", 0] } };
  prompt[5] = sampler("KSampler", { model: ["4", 1], steps: 30 });
  assert.equal(estimateOf(prompt, "2").steps.length, 30);
  prompt[5].inputs.steps = ["4", 3];
  assert.match(problemOf(prompt, "2"), /steps comes through a link/);
});

test("where a node chooses the model, patches wait for the run; rgthree's takes the first", () => {
  const prompt = { 1: model, 2: deepCache("1"), 3: sampler("PostDiffKSampler", { model: ["4", 0], preset: "sd15" }) };
  const choice = (class_type, one, other) => ({ class_type, inputs: { one: [one, 0], other: [other, 0] } });
  for (const [one, other] of [["1", "2"], ["2", "1"]]) {
    prompt[4] = choice("ImpactSwitch", one, other);
    for (const id of ["2", "3"]) assert.match(problemOf(prompt, id), /model comes through a link/);
    prompt[4] = choice("Any Switch (rgthree)", one, other);
    assert.equal(estimateOf(prompt, "2").sampler?.id, one === "2" ? "3" : undefined);
  }
  prompt[1] = { class_type: "PostDiffEmbeddedModel", inputs: {} };
  prompt[2] = { class_type: "CheckpointLoaderSimple", inputs: {} };
  prompt[3].inputs.preset = "auto";
  prompt[4] = { class_type: "ImpactSwitch", inputs: { model: ["1", 0], other: ["2", 0] } };
  assert.match(estimateOf(prompt, "3").notes[0], /unknown model/);
});

test("a node that samples and gives pictures is a sampler", () => {
  const prompt = { 1: model, 2: deepCache("1"), 3: sampler("FaceDetailer", { model: ["2", 0], steps: 12 }) };
  assert.equal(estimateOf(prompt, "2").steps.length, 12);
});

test("PostDiff Calibrate, whose steps are a list of numbers to try, is no sampler", () => {
  const prompt = { 1: model, 2: deepCache("1"), 3: sampler("PostDiffCalibrate", { model: ["2", 0], steps: "20, 12" }) };
  assert.equal(estimateOf(prompt, "2").sampler, null);
});

test("an empty deep cache window is named", () => {
  const prompt = {
    1: model,
    2: deepCache("1", { start_percent: 0.6, end_percent: 0.6 }),
    3: sampler("KSampler", { model: ["2", 0] }),
  };
  assert.match(problemOf(prompt, "2"), /window is empty/);
});

test("a model that comes out of one of our samplers still carries its techniques", () => {
  const prompt = {
    1: model,
    2: sampler("MixedResolutionKSampler", { model: ["1", 0], low_res_scale: 0.5, low_res_until: 0.5 }),
  };
  prompt[3] = cutoff("2");
  prompt[3].inputs.model = ["2", 1];
  prompt[4] = sampler("KSampler", { model: ["3", 0], steps: 10 });
  assert.equal(low(estimateOf(prompt, "3")), 5);
  assert.equal(estimateOf(prompt, "2").steps.length, 20);
});

test("a mistake of ours is not taken for a value that the run knows", () => {
  const graph = graphOf({ 1: model, 2: sampler("PostDiffKSampler", { model: ["1", 0], preset: "sd15" }) });
  delete graph.get("2").values;
  assert.throws(() => estimates(graph), TypeError);
});

test("a ring of links does not hang", () => {
  const prompt = { 1: cutoff("2"), 2: cutoff("1"), 3: sampler("KSampler", { model: ["2", 0] }) };
  assert.equal(estimateOf(prompt, "1").steps.length, 20);
});

test("one of our samplers shows its own steps before a model is connected", () => {
  const prompt = { 1: sampler("MixedResolutionKSampler", { steps: 8, low_res_scale: 0.5, low_res_until: 0.5 }) };
  assert.equal(estimateOf(prompt, "1").steps.length, 8);
  assert.equal(low(estimateOf(prompt, "1")), 4);
});
