import assert from "node:assert/strict";
import { test } from "node:test";

import { drawTimeline, inWords, legend, pictureHeight, resultLine } from "../../web/drawing.js";
import { TECHNIQUES_OF } from "../../web/estimate.js";
import { plan, stepAtUniformTimesteps } from "../../web/plan.js";
import { wordsOf } from "../../web/words.js";

const say = wordsOf("en");
const ALL = TECHNIQUES_OF.PostDiffKSampler;
const settings = {
  mixed_resolution: { low_res_scale: 0.5, low_res_until: 0.5 },
  deep_cache: { interval: 2, start_percent: 0, end_percent: 1 },
  cross_attn_cache: { start_percent: 0.75 },
  cfg_cutoff: { start_percent: 0.75 },
};
const { steps } = plan(settings, 20, (p) => stepAtUniformTimesteps(20, p));
const draw = (techniques, step = null) => drawTimeline({ steps, scale: 0.5, techniques, label: 'a "label" <&>', step, say });
const count = (text, pattern) => (text.match(pattern) ?? []).length;

test("there is one element per step, with what the step does", () => {
  const svg = draw(ALL);
  assert.equal(count(svg, /data-step=/g), 20);
  assert.match(svg, /data-step="0" data-stage="low" data-deep="refresh" data-xattn="compute" data-cfg="on"/);
  assert.match(svg, /data-step="19" data-stage="full" data-deep="reuse" data-xattn="reuse" data-cfg="off"/);
});

test("a line marks where guidance stops, and only where it is shown", () => {
  assert.match(draw(ALL), /class="stop" x1="75.0000%"/);
  assert.equal(count(draw(["deep_cache"]), /class="stop"/g), 0);
});

test("a patch draws its own lane only", () => {
  assert.equal(count(draw(["cross_attn_cache"]), /<rect class="(full|reused|guided)"/g), 0);
  assert.equal(count(draw(["cross_attn_cache"]), /class="xattn"/g), 15);
  assert.equal(count(draw(["cross_attn_cache"]), /class="xattn-reused"/g), 5);
});

test("a lane shows nothing of the techniques that others stand for", () => {
  const heights = (svg) => new Set(svg.match(/(?<= height=")[\d.]+(?="\/><\/g>)/g));
  assert.equal(count(draw(["mixed_resolution"]), /class="reused"/g), 0);
  assert.equal(heights(draw(["mixed_resolution"])).size, 2);
  assert.equal(count(draw(["deep_cache"]), /class="reused"/g), 10);
  assert.equal(heights(draw(["deep_cache"])).size, 2); // whole columns, and the feet of the reusing ones
});

/** [top, bottom] of what a step's column is made of, from above. */
function column(svg, step) {
  const [cell] = svg.match(new RegExp(`<g data-step="${step}".*?</g>`));
  return [...cell.matchAll(/ y="([\d.]+)" height="([\d.]+)"/g)].map(([, y, height]) => [+y, +y + +height]);
}

test("low-resolution columns are as low as the scale says, yet neither invisible nor full", () => {
  const lowTop = (scale) => column(drawTimeline({ steps, scale, techniques: ["mixed_resolution"], label: "", say }), 0)[0][0];
  const [tiny, half, whole] = [0.1, 0.5, 1].map(lowTop);
  const height = pictureHeight(["mixed_resolution"]);
  assert.equal(half, height / 2);
  assert.ok(0 < whole && whole < half && half < tiny && tiny < 0.8 * height);
});

test("a step that reuses deep features keeps a foot that can be seen", () => {
  const svg = drawTimeline({ steps, scale: 0.25, techniques: ["mixed_resolution", "deep_cache"], label: "", say });
  const [, [top, bottom]] = column(svg, 1);
  assert.ok(bottom - top >= 3);
});

test("without guidance the upper of two rows is empty", () => {
  assert.equal(count(draw(["cfg_cutoff"]), /class="guided"/g), 15 + 20);
  assert.match(draw(["cfg_cutoff"]), /data-step="15".*?class="unused"/);
  assert.doesNotMatch(draw(["cfg_cutoff"]), /data-step="14"((?!<\/g>).)*class="unused"/);
});

test("the lanes lie below each other, and one that is alone is not too small", () => {
  const parts = column(draw(ALL), 0);
  assert.ok(parts.every(([top], i) => i === 0 || top > parts[i - 1][1]), parts);
  for (const each of ALL) assert.ok(pictureHeight([each]) >= 16);
});

test("the more steps there are, the closer they stand", () => {
  const gaps = [20, 100, 200].map((total) => {
    const { steps } = plan({}, total, () => 0);
    return drawTimeline({ steps, scale: 1, techniques: ALL, label: "", say }).match(/% - ([\d.]+)px/)[1];
  });
  assert.deepEqual(gaps, ["1.5", "0.5", "0"]);
});

test("every step says what it does", () => {
  assert.match(draw(ALL), /<title>Step 1: low resolution, deep features computed and kept, cross-attention computed, /);
  assert.match(draw(ALL), /<title>Step 20: full resolution, deep features reused, cross-attention reused, guidance off</);
  const [stock] = plan({}, 20, () => 0).steps;
  const svg = drawTimeline({ steps: [stock], scale: 1, techniques: ALL, label: "", say });
  assert.match(svg, /<title>Step 1: full resolution, guidance on</);
});

test("only a running step is marked", () => {
  assert.equal(count(draw(ALL), /class="now"/g), 0);
  assert.match(draw(ALL, 4), /class="now" x="20.0000%" width="5.0000%"/);
  assert.match(draw(ALL, 4), /class="todo" x="25.0000%" width="75.0000%"/);
});

test("labels cannot break out of the picture", () => {
  assert.match(draw(ALL), /aria-label="a &quot;label&quot; &lt;&amp;&gt;"/);
});

test("a plan reads as words", () => {
  assert.equal(
    inWords(steps, ALL, "Estimate", say),
    "Estimate: 20 steps; low resolution: 1 to 10; " +
      "deep features computed and kept: 1, 3, 5, 7, 9, 11, 13, 15, 17, 19; " +
      "deep features reused: 2, 4, 6, 8, 10, 12, 14, 16, 18, 20; " +
      "cross-attention reused: 16 to 20; guidance off: 16 to 20.",
  );
  assert.equal(inWords(plan({}, 3, () => 0).steps, ["cfg_cutoff"], "Plan", say), "Plan: 3 steps; guidance off: none.");
});

test("the legend counts the steps of each kind and leaves out what does not occur", () => {
  const words = (html) => html.replace(/<[^>]*>/g, "|").replace(/\|+/g, "|");
  assert.equal(
    words(legend(steps, ALL, say)),
    "|full-res |10|low-res |10|deep reused |10|cross-attn |15|reused |5|guidance to |15|",
  );
  assert.equal(words(legend(steps, ["cfg_cutoff"], say)), "|guided |15|unguided |5|");
  const stock = plan({}, 20, () => 0).steps;
  assert.equal(words(legend(stock, ALL, say)), "|full-res |20|");
});

test("the result names seconds and work, and a speed-up only where the run can tell", () => {
  const totals = { seconds: 3.216, speedup: 2.414, work_saved: 0.581 };
  assert.equal(resultLine({ totals }, say), "3.22 s · 2.41× speed-up · −58 % work");
  assert.equal(resultLine({ totals: { ...totals, speedup: null } }, say), "3.22 s · −58 % work");
  assert.equal(resultLine({ totals: { seconds: 12, speedup: null, work_saved: null } }, say), "12.0 s");
  assert.equal(resultLine({ totals: { seconds: 12, speedup: null, work_saved: 0.001 } }, say), "12.0 s");
});
