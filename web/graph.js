/**
 * The graph on the canvas as the server will see it: subgraphs flattened, links followed through reroutes, bypassed
 * nodes and subgraph borders, primitives replaced by their values. Asking the frontend for its prompt would do the same,
 * but calls every node's serialisers, some of which upload files.
 *
 * readGraph(rootGraph) -> Map: execution id ("7", in a subgraph "4:7") ->
 *   { id, type, title, node, outputs: [type], values: {input: value}, links: {input: {id, slot, type}} }
 */

const MUTED = 2;
const BYPASSED = 4;
const SUBGRAPH_INPUTS = -10; // the id litegraph gives to the inner end of a subgraph's inputs

export function readGraph(rootGraph, widgetNames) {
  const graph = new Map();
  for (const place of places(rootGraph, [])) {
    const { node, hosts } = place;
    if (node.isVirtualNode || node.subgraph || ![...hosts, node].every(isActive)) continue;
    graph.set(executionId(place), describe(place, widgetNames));
  }
  return graph;
}

/** Every node on the canvas, also those inside subgraphs and those that do not run. */
export const allNodes = (rootGraph) => new Set([...places(rootGraph, [])].map(({ node }) => node));

export const isMuted = (node) => node.mode === MUTED;
export const isBypassed = (node) => node.mode === BYPASSED;
const isActive = (node) => !isMuted(node) && !isBypassed(node);

/** A place is a node and the subgraph nodes it lies in, outermost first: one subgraph may be used in several. */
function* places(graph, hosts) {
  for (const node of graph?.nodes ?? []) {
    yield { node, hosts };
    if (node.subgraph && !hosts.includes(node)) yield* places(node.subgraph, [...hosts, node]);
  }
}

const executionId = ({ node, hosts }) => [...hosts, node].map((each) => each.id).join(":");

function describe(place, widgetNames) {
  const { node } = place;
  const values = {};
  for (const widget of node.widgets ?? []) if (widgetNames.has(widget.name)) values[widget.name] = widget.value;
  const links = {};
  for (const [slot, input] of (node.inputs ?? []).entries()) {
    if (input.link == null) continue;
    const source = sourceOfInput(place, slot, input.type, new Set());
    if (!source) continue;
    if ("value" in source) values[input.name] = source.value;
    else links[input.name] = { ...source, type: input.type };
  }
  return {
    id: executionId(place),
    type: node.comfyClass ?? node.type,
    title: node.title,
    node,
    outputs: (node.outputs ?? []).map((output) => output.type),
    values,
    links,
  };
}

/** Where an input's value comes from: {id, slot} of an executed node, {value} of a widget, or null. */
function sourceOfInput(place, slot, type, seen) {
  const { node, hosts } = place;
  const mark = `${executionId(place)} ${slot}`;
  const link = node.graph?.getLink(node.inputs?.[slot]?.link);
  if (!link || seen.has(mark)) return null;
  seen.add(mark);
  if (Number(link.origin_id) === SUBGRAPH_INPUTS) return sourceOutside(hosts, link.origin_slot, type, seen);
  const origin = node.graph.getNodeById(link.origin_id);
  return origin ? sourceOfOutput({ node: origin, hosts }, link.origin_slot, type, seen) : null;
}

function sourceOutside(hosts, slot, type, seen) {
  const host = hosts.at(-1);
  const input = host?.inputs?.[slot];
  if (!input) return null;
  if (input.link != null) return sourceOfInput({ node: host, hosts: hosts.slice(0, -1) }, slot, type, seen);
  const widget = host.getWidgetFromSlot?.(input);
  return widget ? { value: widget.value } : null;
}

function sourceOfOutput(place, slot, type, seen) {
  const { node, hosts } = place;
  if (isMuted(node)) return null;
  if (isBypassed(node)) return sourceOfInput(place, bypassedInput(node, slot, type), type, seen);
  if (node.subgraph) return sourceInside(place, slot, type, seen);
  if (!node.isVirtualNode) return { id: executionId(place), slot };
  if (node.type === "PrimitiveNode") return { value: node.widgets?.[0]?.value };
  if (node.inputs?.length > 0) return sourceOfInput(place, 0, type, seen);
  const setter = setterOf(place);
  if (setter) return sourceOfInput(setter, slot, type, seen);
  const elsewhere = node.resolveVirtualOutput?.(slot);
  return elsewhere ? sourceOfOutput({ node: elsewhere.node, hosts }, elsewhere.slot, type, seen) : null;
}

/**
 * The place of the node that sets what this one gets, in its graph or one around it: "SetNode" for "GetNode", of the
 * same name. To ask the node itself, again and again, would show a warning each time, or throw, where there is none.
 */
function setterOf({ node, hosts }) {
  const kind = node.type?.toLowerCase().replace("get", "set");
  const name = node.widgets?.[0]?.value;
  const isSetter = (other) =>
    other !== node && other.isVirtualNode && other.type?.toLowerCase() === kind && other.widgets?.[0]?.value === name;
  for (let inside = hosts.length; inside >= 0; inside--) {
    const graph = inside === hosts.length ? node.graph : hosts[inside].graph;
    const setter = graph.nodes.find(isSetter);
    if (setter) return { node: setter, hosts: hosts.slice(0, inside) };
  }
  return null;
}

function sourceInside({ node, hosts }, slot, type, seen) {
  const link = node.subgraph.outputNode?.slots?.[slot]?.getLinks().at(0);
  if (!link) return null;
  if (Number(link.origin_id) === SUBGRAPH_INPUTS) return sourceOfInput({ node, hosts }, link.origin_slot, type, seen);
  const origin = node.subgraph.getNodeById(link.origin_id);
  return origin ? sourceOfOutput({ node: origin, hosts: [...hosts, node] }, link.origin_slot, type, seen) : null;
}

/** A bypassed node hands on its input of the same slot if the types fit, else its first of that type, else any that fits. */
function bypassedInput(node, slot, type) {
  const inputs = node.inputs ?? [];
  if (isAny(type)) return slot < inputs.length ? slot : 0;
  const passes = (input) => input && fits(input.type, node.outputs?.[slot]?.type) && fits(input.type, type);
  if (passes(inputs[slot])) return slot;
  const same = inputs.findIndex((input) => input.type === type);
  return same === -1 ? inputs.findIndex(passes) : same;
}

const isAny = (type) => !type || type === "*";

/** Whether litegraph would connect them: a type may be a list, or any. */
function fits(one, other) {
  const kinds = (type) => String(type).toLowerCase().split(",");
  return isAny(one) || isAny(other) || kinds(one).some((kind) => kinds(other).includes(kind));
}
