import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { plan, stepAtUniformTimesteps } from "../../web/plan.js";

const cases = JSON.parse(readFileSync(new URL("../vectors/schedule.json", import.meta.url), "utf8"));

for (const { name, total, settings, notes, plan: expected } of cases) {
  test(`${name}: ${total} steps`, () => {
    const laidOut = plan(settings, total, (fraction) => stepAtUniformTimesteps(total, fraction));
    assert.deepEqual(laidOut.steps, expected);
    assert.equal(laidOut.notes.length, notes);
  });
}

test("there are vectors", () => assert.ok(cases.length > 10));

test("a step is reached that only rounding puts before the fraction", () => {
  assert.ok(0.07 * 100 > 7);
  assert.equal(stepAtUniformTimesteps(100, 0.07), 7);
});

test("a run too short says so only where something was asked for", () => {
  assert.deepEqual(plan({}, 2, () => 0).notes, []);
  assert.equal(plan({ cfg_cutoff: { start_percent: 0.5 } }, 2, () => 0).notes.length, 1);
});

test("an empty deep cache window is refused", () => {
  const settings = { deep_cache: { interval: 2, start_percent: 0.5, end_percent: 0.5 } };
  assert.throws(() => plan(settings, 8, () => 0), RangeError);
});
