import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { LANGUAGES, wordsOf } from "../../web/words.js";

const source = (name) => readFileSync(new URL(`../../web/${name}`, import.meta.url), "utf-8");

/** What the modules hand to `say`, and what estimate.js leaves for others to hand on. */
const SAID = new Set([
  ...["drawing.js", "timeline.js"].flatMap((name) => [...source(name).matchAll(/\bsay\(\s*"([^"]+)"/g)]),
  ...source("estimate.js").matchAll(/(?:SetAtRunTime\(|assumption = )"([^"]+)"/g),
  ...source("timeline.js").matchAll(/"((?:Muted|Bypassed|Inside)[^"]+)"/g),
].map(([, text]) => text));

const placeholders = (text) => (text.match(/\{\w+\}/g) ?? []).sort();

test("every text is translated into every language, with its placeholders", () => {
  assert.ok(SAID.size > 35);
  for (const language of LANGUAGES)
    for (const text of SAID) {
      const translated = wordsOf(language)(text);
      assert.notEqual(translated, text, language);
      assert.deepEqual(placeholders(translated), placeholders(text), `${language}: ${text}`);
    }
});

test("no translation is of a text that nobody says", () => {
  const known = [...source("words.js").matchAll(/^ {4}(?:"([^"]+)"|(\w+)):/gm)].map(([, quoted, bare]) => quoted ?? bare);
  assert.equal(known.length, SAID.size * LANGUAGES.length);
  assert.deepEqual(new Set(known), SAID);
});

test("values are put in their places, and what is not known stays as it is", () => {
  assert.equal(wordsOf("en")("{first} to {last}", { first: 1, last: 4 }), "1 to 4");
  assert.equal(wordsOf("zh")("{first} to {last}", { first: 1, last: 4 }), "1 至 4");
  assert.equal(wordsOf("en")("{total} steps of {title}", { total: 1, title: "KSampler" }), "1 step of KSampler");
  assert.equal(wordsOf("fr")("low resolution"), "low resolution");
  assert.equal(wordsOf("zh")("A note of the server in {braces}."), "A note of the server in {braces}.");
});
