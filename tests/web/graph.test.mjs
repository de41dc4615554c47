import assert from "node:assert/strict";
import { test } from "node:test";

import { readGraph } from "../../web/graph.js";

const STEPS = new Set(["steps"]);

/** A litegraph of the smallest kind: `links` are [from node, from slot, to node, to slot]. */
function litegraph(nodes, links, extra = {}) {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const byLink = new Map(
    links.map(([origin_id, origin_slot, target_id, target_slot], i) => [
      i,
      { origin_id, origin_slot, target_id, target_slot },
    ]),
  );
  const graph = { nodes, getNodeById: (id) => byId.get(Number(id)), getLink: (id) => byLink.get(id), ...extra };
  for (const node of nodes) node.graph = graph;
  for (const [i, [, , target, slot]] of links.entries()) if (byId.has(target)) byId.get(target).inputs[slot].link = i;
  return graph;
}

const input = (name, type) => ({ name, type, link: null });
const output = (type) => ({ type });
const loader = (id) => ({ id, comfyClass: "Loader", inputs: [], outputs: [output("MODEL")] });
const patch = (id, mode = 0) => ({
  id,
  mode,
  comfyClass: "Patch",
  inputs: [input("model", "MODEL")],
  outputs: [output("MODEL")],
});
const sampler = (id) => ({
  id,
  comfyClass: "KSampler",
  inputs: [input("model", "MODEL"), input("steps", "INT")],
  outputs: [output("LATENT")],
  widgets: [
    { name: "steps", value: 20 },
    { name: "seed", value: 1 },
  ],
});
const model = (graph, id) => graph.get(id).links.model;

test("values and links are read as the server will see them", () => {
  const graph = readGraph(litegraph([loader(1), sampler(2)], [[1, 0, 2, 0]]), STEPS);
  assert.deepEqual(graph.get("2").values, { steps: 20 });
  assert.deepEqual(model(graph, "2"), { id: "1", slot: 0, type: "MODEL" });
});

test("reroutes and bypassed nodes pass through, muted ones cut off", () => {
  const reroute = { id: 3, type: "Reroute", isVirtualNode: true, inputs: [input("", "*")], outputs: [output("*")] };
  const links = [
    [1, 0, 3, 0],
    [3, 0, 4, 0],
    [4, 0, 2, 0],
  ];
  assert.equal(model(readGraph(litegraph([loader(1), sampler(2), reroute, patch(4, 4)], links), STEPS), "2").id, "1");
  const muted = { ...reroute, inputs: [input("", "*")] };
  assert.equal(model(readGraph(litegraph([loader(1), sampler(2), muted, patch(4, 2)], links), STEPS), "2"), undefined);
});

test("a bypassed node hands on the input beside the output if it fits, else the first of its type, else one that fits", () => {
  const merge = (types) => ({
    ...patch(4, 4),
    inputs: types.map((type) => input("", type)),
    outputs: [output("LATENT"), output("MODEL")],
  });
  const reached = (...types) => {
    const links = types.map((_, slot) => [[1, 3, 5][slot], 0, 4, slot]);
    links.push([4, 1, 2, 0]);
    return model(readGraph(litegraph([loader(1), loader(3), loader(5), merge(types), sampler(2)], links), STEPS), "2")?.id;
  };
  assert.equal(reached("MODEL", "MODEL"), "3");
  assert.equal(reached("CLIP", "VAE", "MODEL"), "5");
  assert.equal(reached("CLIP", "VAE"), undefined);
  assert.equal(reached("CLIP", "*"), "3");
  assert.equal(reached("*", "VAE"), "1");
  assert.equal(reached("VAE", "CLIP,MODEL"), "3");
});

test("a primitive's value replaces the widget's own", () => {
  const primitive = {
    id: 5,
    type: "PrimitiveNode",
    isVirtualNode: true,
    inputs: [],
    outputs: [output("INT")],
    widgets: [{ name: "value", value: 33 }],
  };
  const graph = readGraph(
    litegraph(
      [loader(1), sampler(2), primitive],
      [
        [1, 0, 2, 0],
        [5, 0, 2, 1],
      ],
    ),
    STEPS,
  );
  assert.equal(graph.get("2").values.steps, 33);
});

test("links are followed into and out of subgraphs", () => {
  const slots = [{ getLinks: () => [{ origin_id: 7, origin_slot: 0 }] }];
  const subgraph = litegraph([patch(7)], [[-10, 0, 7, 0]], { outputNode: { slots } });
  const host = { id: 4, subgraph, inputs: [input("model", "MODEL")], outputs: [output("MODEL")] };
  const graph = readGraph(
    litegraph(
      [loader(1), sampler(2), host],
      [
        [1, 0, 4, 0],
        [4, 0, 2, 0],
      ],
    ),
    STEPS,
  );
  assert.equal(model(graph, "2").id, "4:7");
  assert.equal(model(graph, "4:7").id, "1");
  assert.equal(graph.has("4"), false);
});

test("a subgraph may hand its input straight through, and a virtual node may stand for another place", () => {
  const slots = [{ getLinks: () => [{ origin_id: -10, origin_slot: 0 }] }];
  const subgraph = litegraph([], [], { outputNode: { slots } });
  const through = { id: 4, subgraph, inputs: [input("model", "MODEL")], outputs: [output("MODEL")] };
  const links = [
    [1, 0, 4, 0],
    [4, 0, 2, 0],
  ];
  assert.equal(model(readGraph(litegraph([loader(1), sampler(2), through], links), STEPS), "2").id, "1");
  const get = { id: 4, type: "GetNode", isVirtualNode: true, inputs: [], outputs: [output("MODEL")] };
  get.resolveVirtualOutput = () => ({ node: get.graph.getNodeById(1), slot: 0 });
  assert.equal(model(readGraph(litegraph([loader(1), sampler(2), get], [[4, 0, 2, 0]]), STEPS), "2").id, "1");
});

test("what one node sets others get, also in subgraphs, and nothing where no node sets it", () => {
  const set = (id, name) => ({
    id,
    type: "SetNode",
    isVirtualNode: true,
    inputs: [input("", "MODEL")],
    outputs: [output("*")],
    widgets: [{ name: "Constant", value: name }],
  });
  const get = (id, name) => ({ ...set(id, name), type: "GetNode", inputs: [] });
  const asked = () => assert.fail("the node warns or throws where no node sets what it gets");
  const links = [
    [1, 0, 3, 0],
    [4, 0, 2, 0],
  ];
  const reached = (...names) => {
    const [setter, getter] = [set(3, names[0]), { ...get(4, names[1]), getInputLink: asked }];
    return model(readGraph(litegraph([loader(1), sampler(2), setter, getter], links), STEPS), "2")?.id;
  };
  assert.equal(reached("name", "name"), "1");
  assert.equal(reached("name", "another"), undefined);
  const subgraph = litegraph([get(7, "name"), sampler(8)], [[7, 0, 8, 0]]);
  const host = { id: 5, subgraph, inputs: [], outputs: [] };
  const outside = litegraph([loader(1), set(3, "name"), host], [[1, 0, 3, 0]]);
  assert.equal(model(readGraph(outside, STEPS), "5:8").id, "1");
});

test("neither a node that does not run is there nor one inside it", () => {
  const inside = (mode) => ({ id: 4, mode, subgraph: litegraph([patch(7)], []), inputs: [], outputs: [] });
  const ids = (mode) => [...readGraph(litegraph([patch(1, mode), inside(mode)], []), STEPS).keys()];
  assert.deepEqual([0, 2, 4].map(ids), [["1", "4:7"], [], []]);
});

test("a widget promoted to the subgraph gives its value", () => {
  const subgraph = litegraph([sampler(7)], [[-10, 0, 7, 1]], { outputNode: { slots: [] } });
  const host = {
    id: 4,
    subgraph,
    inputs: [input("steps", "INT")],
    outputs: [],
    getWidgetFromSlot: () => ({ value: 12 }),
  };
  assert.equal(readGraph(litegraph([host], []), STEPS).get("4:7").values.steps, 12);
});

test("a subgraph that holds itself does not hang", () => {
  const host = { id: 4, inputs: [], outputs: [] };
  host.subgraph = litegraph([patch(7), host], []);
  assert.deepEqual([...readGraph(litegraph([host], []), STEPS).keys()], ["4:7"]);
});

test("virtual nodes in a ring do not hang", () => {
  const ring = [3, 4].map((id) => ({
    id,
    type: "Reroute",
    isVirtualNode: true,
    inputs: [input("", "*")],
    outputs: [output("*")],
  }));
  const graph = readGraph(
    litegraph(
      [sampler(2), ...ring],
      [
        [3, 0, 4, 0],
        [4, 0, 3, 0],
        [4, 0, 2, 0],
      ],
    ),
    STEPS,
  );
  assert.equal(model(graph, "2"), undefined);
});
