import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { plan, stepAtUniformTimesteps } from "../../web/plan.mjs";

const cases = JSON.parse(readFileSync(new URL("../vectors/schedule.json", import.meta.url), "utf8"));

for (const { name, total, settings, notes, plan: expected } of cases) {
  test(`${name}: ${total} steps`, () => {
    const laidOut = plan(settings, total, (fraction) => stepAtUniformTimesteps(total, fraction));
    assert.deepEqual(laidOut.steps, expected);
    assert.equal(laidOut.notes.length, notes);
  });
}

test("there are vectors", () => assert.ok(cases.length > 10));

test("a model that takes no smaller latent runs every step at full size", () => {
  const settings = { mixed_resolution: { low_res_scale: 0.5, low_res_until: 0.5 } };
  const { steps } = plan(settings, 8, (p) => stepAtUniformTimesteps(8, p), { canLowerResolution: false });
  assert.ok(steps.every((step) => step.stage === "full"));
});

test("an empty deep cache window is refused", () => {
  const settings = { deep_cache: { interval: 2, start_percent: 0.5, end_percent: 0.5 } };
  assert.throws(() => plan(settings, 8, () => 0), RangeError);
});
