/** The paper's settings (section 3.1) per model family: postdiff_core/presets.py in JavaScript, for the estimate. */

const guided = (m) => ({ cross_attn_cache: { start_percent: m, mode: "cond" }, cfg_cutoff: { start_percent: m } });
const mixed = (beta, s) => ({ mixed_resolution: { low_res_scale: beta, low_res_until: s } });
const deep = (k, start_percent = 0) => ({ deep_cache: { interval: k, depth: 2, start_percent, end_percent: 1 } });

export const PRESETS = {
  sd15: { ...mixed(0.5, 0.5), ...deep(2), ...guided(0.75) },
  lcm: { ...mixed(0.5, 0.5), ...guided(0.5) },
  sdxl: { ...mixed(0.75, 0.2), ...deep(2), ...guided(0.75) },
  pixart_alpha: { ...mixed(0.75, 0.5), ...guided(0.75) },
  embedded: { ...mixed(0.5, 0.5), ...deep(3, 0.25), ...guided(0.75) },
  off: {},
};

/** What `auto` chooses for a model it does not know. */
export const UNKNOWN = { ...mixed(0.75, 0.2), cfg_cutoff: { start_percent: 0.75 } };

/** What `auto` takes for a run of a distilled model: so few steps with so little guidance. */
export const DISTILLED = { maxSteps: 10, maxCfg: 1.5 };
