/** A plan as a picture (SVG) and as words. Pure text in, text out; style.js gives the colours, words.js `say`. */

const MIN_BAR = 0.3; // of a full bar: a quarter-resolution step must stay visible

/** From top to bottom: [the techniques a lane stands for, its height in px]. */
const LANES = {
  bars: { techniques: ["mixed_resolution", "deep_cache"], height: 32 },
  xattn: { techniques: ["cross_attn_cache"], height: 7 },
  guidance: { techniques: ["cfg_cutoff"], height: 7 },
};
const LANE_GAP = 4;

const percent = (share) => `${(100 * share).toFixed(4)}%`;

/**
 * The picture: one `g[data-step]` per step, the line where guidance stops, and, where `step` is a number, the marks of
 * the running step and of those still to come.
 */
export function drawTimeline({ steps, scale, techniques, label, step = null, say }) {
  const lanes = stack(techniques);
  const shown = steps.map((each) => only(each, techniques));
  const height = lanes.at(-1).bottom;
  const cells = steps.map((each, i) => cell(each, shown[i], i, steps.length, scale, lanes, say)).join("");
  const stop = techniques.includes("cfg_cutoff") ? guidanceStop(steps) : steps.length;
  const marks =
    (stop < steps.length ? stopLine(stop / steps.length, height) : "") + runningMarks(step, steps.length, height);
  return `<svg role="img" aria-label="${escape(label)}" height="${height}">${cells}${marks}</svg>`;
}

/** In px. */
export const pictureHeight = (techniques) => stack(techniques).at(-1).bottom;

const stopLine = (at, height) => `<line class="stop" x1="${percent(at)}" x2="${percent(at)}" y1="0" y2="${height}"/>`;

function runningMarks(step, total, height) {
  if (step === null) return "";
  const mark = (name, from, to) => {
    const [x, width] = [from, to - from].map((steps) => percent(steps / total));
    return `<rect class="${name}" x="${x}" width="${width}" y="0" height="${height}"/>`;
  };
  return mark("todo", step + 1, total) + mark("now", step, step + 1);
}

function stack(techniques) {
  let top = 0;
  return Object.entries(LANES)
    .filter(([, lane]) => lane.techniques.some((each) => techniques.includes(each)))
    .map(([name, lane], _, all) => {
      const height = all.length === 1 ? Math.max(lane.height, 16) : lane.height;
      const bottom = top + height;
      const placed = { name, top, height, bottom };
      top = bottom + LANE_GAP;
      return placed;
    });
}

/** The step as if it did nothing but these techniques: a patch draws its own lane. */
function only(step, techniques) {
  return {
    stage: techniques.includes("mixed_resolution") ? step.stage : "full",
    deep: techniques.includes("deep_cache") ? step.deep : "off",
    xattn: step.xattn,
    cfg: step.cfg,
  };
}

function cell(step, shown, index, total, scale, lanes, say) {
  const shapes = lanes.map((lane) =>
    SHAPES[lane.name](shown, lane, scale, (name, y, height) => bar(name, index, total, y, height)),
  );
  return (
    `<g data-step="${index}" data-stage="${step.stage}" data-deep="${step.deep}" data-xattn="${step.xattn}" ` +
    `data-cfg="${step.cfg}"><title>${escape(stepInWords(step, index, say))}</title>${shapes.join("")}</g>`
  );
}

/** What each lane shows of a step. Every difference in tone is one in shape too. */
const SHAPES = {
  bars(step, lane, scale, bar) {
    const height = step.stage === "low" ? lane.height * Math.max(MIN_BAR, Math.min(scale, 0.9)) : lane.height;
    const top = lane.bottom - height;
    if (step.deep !== "reuse") return bar("full", top, height);
    const shallow = Math.max(3, height / 5);
    return bar("reused", top, height - shallow) + bar("full", lane.bottom - shallow, shallow);
  },
  xattn(step, lane, _, bar) {
    return bar({ off: "unused", compute: "xattn", reuse: "xattn-reused" }[step.xattn], lane.top, lane.height);
  },
  guidance(step, lane, _, bar) {
    const row = (lane.height - 1) / 2;
    const unconditional = bar(step.cfg === "on" ? "guided" : "unused", lane.top, row);
    return unconditional + bar("guided", lane.bottom - row, row);
  },
};

function bar(name, index, total, y, height) {
  const gap = total > 150 ? 0 : total > 60 ? 0.5 : 1.5;
  const style = `x:calc(${percent(index / total)} + ${gap / 2}px);width:calc(${percent(1 / total)} - ${gap}px)`;
  return `<rect class="${name}" style="${style}" y="${y.toFixed(2)}" height="${height.toFixed(2)}"/>`;
}

const guidanceStop = (steps) => {
  const stop = steps.findIndex((step) => step.cfg === "off");
  return stop < 0 ? steps.length : stop;
};
const count = (steps, key, value) => steps.filter((step) => step[key] === value).length;

function stepInWords(step, index, say) {
  const facts = [
    step.stage === "low" ? say("low resolution") : say("full resolution"),
    step.deep === "refresh" && say("deep features computed and kept"),
    step.deep === "reuse" && say("deep features reused"),
    step.xattn === "compute" && say("cross-attention computed"),
    step.xattn === "reuse" && say("cross-attention reused"),
    step.cfg === "on" ? say("guidance on") : say("guidance off"),
  ];
  return say("Step {n}", { n: index + 1 }) + say(": ") + facts.filter(Boolean).join(say(", "));
}

/** The whole picture in words, for those who cannot see it. */
export function inWords(steps, techniques, kind, say) {
  const ranges = (key, value) => rangesOf(steps, (step) => step[key] === value, say);
  const words = {
    mixed_resolution: [[say("low resolution"), ranges("stage", "low")]],
    deep_cache: [
      [say("deep features computed and kept"), ranges("deep", "refresh")],
      [say("deep features reused"), ranges("deep", "reuse")],
    ],
    cross_attn_cache: [[say("cross-attention reused"), ranges("xattn", "reuse")]],
    cfg_cutoff: [[say("guidance off"), ranges("cfg", "off")]],
  };
  const facts = techniques
    .flatMap((each) => words[each])
    .map(([what, where]) => what + say(": ") + (where || say("none")));
  return kind + say(": ") + [say("{total} steps", { total: steps.length }), ...facts].join(say("; ")) + say(".");
}

function rangesOf(steps, holds, say) {
  const ranges = [];
  steps.forEach((step, i) => {
    if (!holds(step)) return;
    if (ranges.at(-1)?.[1] === i) ranges.at(-1)[1] = i + 1;
    else ranges.push([i + 1, i + 1]);
  });
  return ranges
    .map(([first, last]) => (first === last ? `${first}` : say("{first} to {last}", { first, last })))
    .join(say(", "));
}

/** What a run took, in one line; the speed-up is against the run's own full-cost steps, absent if it had none. */
export function resultLine({ totals }, say) {
  const { seconds, speedup, work_saved: saved } = totals;
  const percent = Math.round(100 * (saved ?? 0));
  const parts = [
    say("{seconds} s", { seconds: seconds.toFixed(seconds < 10 ? 2 : 1) }),
    speedup == null ? null : say("{factor}× speed-up", { factor: speedup.toFixed(2) }),
    percent > 0 ? say("−{percent} % work", { percent }) : null,
  ];
  return parts.filter(Boolean).join(" · ");
}

/** The key to the picture, with how many steps there are of each kind, as HTML. */
export function legend(steps, techniques, say) {
  const total = steps.length;
  const low = count(steps, "stage", "low");
  const deep = count(steps, "deep", "reuse");
  const xattn = count(steps, "xattn", "reuse");
  const stop = guidanceStop(steps);
  const alone = techniques.length === 1;
  const computed = count(steps, "xattn", "compute");
  const keys = {
    mixed_resolution: [
      ["full", say("full-res"), total - low],
      ["low", say("low-res"), low],
    ],
    deep_cache: [
      ["full", say("computed"), alone ? total - deep : 0],
      ["reused", say("deep reused"), deep],
    ],
    cross_attn_cache: [
      ["xattn", say("cross-attn"), computed],
      ["xattn-reused", say("reused"), xattn],
    ],
    cfg_cutoff: alone
      ? [
          ["guided", say("guided"), stop],
          ["unguided", say("unguided"), total - stop],
        ]
      : [["stop", say("guidance to"), stop < total ? stop : 0]],
  };
  return techniques
    .flatMap((each) => keys[each])
    .filter(([, , number]) => number > 0)
    .map(([name, label, number]) => `<span><i class="key ${name}"></i>${label} <b>${number}</b></span>`)
    .join("");
}

const escape = (text) => text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
