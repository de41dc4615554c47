/** How a timeline looks. It lies in the timeline's own element and comes and goes with it. */
export const STYLE = `<style>
/* Blue and orange stay apart under every common colour blindness; each tone differs in shape as well. */
.postdiff-timeline {
  --computed: light-dark(#1f6fb5, #56a8ec);
  --reused: color-mix(in srgb, var(--computed) 30%, transparent);
  --xattn: light-dark(#b85c00, #f0a132);
  --ink: var(--input-text, #222);
  --faint: color-mix(in srgb, var(--ink) 16%, transparent);
  box-sizing: border-box;
  padding: 6px 8px 5px;
  overflow: hidden;
  border-radius: 8px;
  color: var(--ink);
  background: var(--component-node-widget-background, var(--comfy-input-bg, #eee));
  font:
    10.5px/15px Inter,
    "Segoe UI",
    system-ui,
    sans-serif;
  font-variant-numeric: tabular-nums;
  user-select: none;
}
/* Older frontends mark a dark palette by this class, newer ones by the color-scheme of the page. */
.dark-theme .postdiff-timeline {
  color-scheme: dark;
}

.postdiff-timeline svg {
  display: block;
  width: 100%;
  overflow: visible;
}
.postdiff-timeline .full {
  fill: var(--computed);
}
.postdiff-timeline .reused {
  fill: var(--reused);
}
.postdiff-timeline .xattn {
  fill: var(--xattn);
}
.postdiff-timeline .xattn-reused {
  fill: none;
  stroke: var(--xattn);
  stroke-width: 1;
}
.postdiff-timeline .guided {
  fill: color-mix(in srgb, var(--ink) 70%, transparent);
}
.postdiff-timeline .unused {
  fill: var(--faint);
}
.postdiff-timeline line.stop {
  stroke: var(--ink);
  stroke-width: 1.5;
  stroke-dasharray: 3 2;
}
.postdiff-timeline g:hover rect {
  filter: brightness(1.2);
}

.postdiff-timeline .todo {
  fill: var(--component-node-widget-background, var(--comfy-input-bg, #eee));
  opacity: 0.65;
  pointer-events: none;
}
.postdiff-timeline .now {
  fill: color-mix(in srgb, var(--ink) 14%, transparent);
  stroke: var(--ink);
  stroke-width: 1;
  pointer-events: none;
}

.postdiff-timeline .status {
  display: flex;
  align-items: baseline;
  gap: 5px;
  margin-top: 4px;
  white-space: nowrap;
}
.postdiff-timeline .status span {
  overflow: hidden;
  text-overflow: ellipsis;
}
.postdiff-timeline[data-state="estimate"] .status,
.postdiff-timeline[data-state="estimate"] .status span,
.postdiff-timeline[data-state="measured"] .status,
.postdiff-timeline[data-state="measured"] .status span {
  white-space: normal;
}
.postdiff-timeline .badge {
  padding: 0 4px;
  border: 1px solid currentColor;
  border-radius: 4px;
  font-style: normal;
  line-height: 12px;
}
.postdiff-timeline[data-state="estimate"] .badge {
  border-style: dashed;
  opacity: 0.75;
}
.postdiff-timeline .badge:empty {
  display: none;
}
.postdiff-timeline[data-state="measured"] .status {
  font-weight: 600;
}
.postdiff-timeline .notes {
  margin-top: 2px;
  padding-left: 8px;
  border-left: 2px solid var(--xattn);
}
.postdiff-timeline .notes:empty {
  display: none;
}

.postdiff-timeline .legend {
  display: flex;
  flex-wrap: wrap;
  gap: 0 7px;
  margin-top: 1px;
  color: color-mix(in srgb, var(--ink) 72%, transparent);
  font-size: 9.5px;
}
.postdiff-timeline .legend b {
  font-weight: 600;
}
.postdiff-timeline .legend span {
  display: inline-flex;
  align-items: center;
  gap: 3px;
}
.postdiff-timeline .key {
  box-sizing: border-box;
  width: 7px;
  height: 8px;
}
.postdiff-timeline .key.full {
  background: var(--computed);
}
.postdiff-timeline .key.low {
  height: 4px;
  margin-top: 4px;
  background: var(--computed);
}
.postdiff-timeline .key.reused {
  background: linear-gradient(to top, var(--computed) 2px, var(--reused) 2px);
}
.postdiff-timeline .key.xattn {
  height: 7px;
  background: var(--xattn);
}
.postdiff-timeline .key.xattn-reused {
  height: 7px;
  border: 1px solid var(--xattn);
}
.postdiff-timeline .key.unguided {
  height: 7px;
  background: linear-gradient(var(--faint) 3px, transparent 3px 4px, currentColor 4px);
  opacity: 0.7;
}
.postdiff-timeline .key.guided {
  height: 7px;
  background: linear-gradient(currentColor 3px, transparent 3px 4px, currentColor 4px);
  opacity: 0.7;
}
.postdiff-timeline .key.stop {
  width: 1px;
  margin: 0 2px;
  border-left: 1.5px dashed currentColor;
}
</style>`;
