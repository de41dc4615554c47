/**
 * What each step of a run does: postdiff_core/schedule.py in JavaScript, for the estimate on the canvas.
 *
 * Both are tested on tests/vectors. Settings carry the names of the nodes' inputs:
 *   { mixed_resolution: {low_res_scale, low_res_until}, deep_cache: {interval, start_percent, end_percent},
 *     cross_attn_cache: {start_percent}, cfg_cutoff: {start_percent} }, a technique that is absent left out.
 * A step is what the server sends: {stage: low|full, deep: off|refresh|reuse, xattn: off|compute|reuse, cfg: on|off}.
 */

const TOLERANCE = 1e-4;
const MIN_STEPS = 3;

/** The first step i with i >= p * T: where fraction p is reached under uniform timesteps, the paper's case. */
export function stepAtUniformTimesteps(total, fraction) {
  return Math.min(total, Math.ceil(fraction * total * (1 - TOLERANCE)));
}

/** The steps of a run: `reached(p)` is the first step at which fraction p is reached, `total` if none is. */
export function plan(settings, total, reached) {
  if (total < MIN_STEPS) return stockPlan(settings, total);
  const { cross_attn_cache: crossAttn, cfg_cutoff: cutoff } = settings;
  const { count: switchAt, notes } = lowResSteps(settings.mixed_resolution, total, reached);
  const reuseFrom = crossAttn ? Math.max(1, reached(crossAttn.start_percent)) : total; // step 0 has nothing to reuse
  const unguidedFrom = cutoff ? reached(cutoff.start_percent) : total;
  const deep = deepCacheStates(settings.deep_cache, total, switchAt, reached);
  const steps = deep.map((state, i) => ({
    stage: i < switchAt ? "low" : "full",
    deep: state,
    xattn: !crossAttn ? "off" : i >= reuseFrom ? "reuse" : "compute",
    cfg: i < unguidedFrom ? "on" : "off",
  }));
  return { steps, notes };
}

function lowResSteps(mixed, total, reached) {
  if (!mixed || mixed.low_res_scale === 1) return { count: 0, notes: [] };
  const wished = reached(mixed.low_res_until);
  const most = total - 2; // stage 2 keeps two steps
  if (wished <= most) return { count: wished, notes: [] };
  const note = `low_res_until asks for ${wished} of ${total} steps; ${most} run at low resolution, two remain.`;
  return { count: most, notes: [note] };
}

function deepCacheStates(cache, total, switchAt, reached) {
  const states = Array(total).fill("off");
  if (!cache) return states;
  if (cache.start_percent >= cache.end_percent) {
    throw new RangeError("The deep cache window is empty: lower start_percent or raise end_percent.");
  }
  if (cache.interval === 1) return states;
  const start = reached(cache.start_percent);
  const end = reached(cache.end_percent);
  for (let i = start; i < end; i++) {
    const phaseStart = Math.max(start, i < switchAt ? 0 : switchAt);
    states[i] = (i - phaseStart) % cache.interval === 0 ? "refresh" : "reuse";
  }
  return states;
}

function stockPlan(settings, total) {
  const steps = Array.from({ length: total }, () => ({ stage: "full", deep: "off", xattn: "off", cfg: "on" }));
  const nothingAsked = Object.keys(settings).length === 0;
  const note = `The run has fewer than ${MIN_STEPS} steps (${total}): it runs without PostDiff.`;
  return { steps, notes: nothingAsked ? [] : [note] };
}
