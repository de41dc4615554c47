// What the browser tests do inside the page. Nodes are named by execution id: "7", in a subgraph "4:7".
window.postdiffTest = (() => {
  const activeWorkflow = () => app.extensionManager.workflow.activeWorkflow;

  function node(id) {
    let graph = app.rootGraph;
    let found;
    for (const part of id.split(":")) {
      found = graph.getNodeById(part) ?? graph.getNodeById(Number(part));
      graph = found?.subgraph;
    }
    return found;
  }

  const widget = (id, name) => node(id).widgets.find((each) => each.name === name);
  const element = (id) => widget(id, "timeline").element;
  const corners = ({ left, right, top, bottom }) => ({ left, right, top, bottom });

  /** A place on the graph as a place on the page. */
  function onPage([x, y]) {
    const { ds, canvas } = app.canvas;
    const view = canvas.getBoundingClientRect();
    return [view.left + (x + ds.offset[0]) * ds.scale, view.top + (y + ds.offset[1]) * ds.scale];
  }

  /** The colour that layers painted over each other make, as [r, g, b] from 0 to 1. */
  function painted(layers) {
    const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    for (const layer of layers) {
      paint.fillStyle = layer;
      paint.fillRect(0, 0, 1, 1);
    }
    return [...paint.getImageData(0, 0, 1, 1).data.slice(0, 3)].map((value) => value / 255);
  }

  /** WCAG 2.2's relative luminance. */
  function luminance(colour) {
    const [r, g, b] = colour.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }

  return {
    node,

    isOpen: (name, nodes) => app.rootGraph.nodes.length === nodes && activeWorkflow()?.path.includes(name),
    tab: () => activeWorkflow().path,
    tabs: () => app.extensionManager.workflow.openWorkflows.length,
    unknownNodes: () =>
      app.rootGraph.nodes.map(({ type }) => type).filter((type) => !(type in LiteGraph.registered_node_types)),
    nodesWithTimeline: () =>
      app.rootGraph.nodes
        .filter(({ widgets }) => widgets?.some(({ name }) => name === "timeline"))
        .map(({ id }) => String(id)),
    lastNode: () => String(app.rootGraph.nodes.at(-1).id),
    subgraph: () => app.rootGraph.nodes.filter((each) => each.subgraph).map(({ id }) => String(id))[0],

    /** Put another use of a subgraph on the canvas. */
    useAgain(id) {
      const again = LiteGraph.createNode(node(id).type);
      app.rootGraph.add(again);
      return String(again.id);
    },

    select: (ids) => app.canvas.selectItems(ids.map(node)),
    selected: () => Object.keys(app.canvas.selected_nodes),

    /** From now on, note in `browserMenus` how often the browser's own menu would open. */
    countBrowserMenus() {
      this.browserMenus = 0;
      const count = (event) => setTimeout(() => (this.browserMenus += event.defaultPrevented ? 0 : 1));
      addEventListener("contextmenu", count, { capture: true });
    },

    /** Note in `end` how the last of so many prompts ends. */
    listenForEnds(prompts) {
      this.end = null;
      let left = prompts;
      for (const end of ["success", "error", "interrupted"])
        app.api.addEventListener(`execution_${end}`, () => --left === 0 && (this.end = end));
    },

    /** Set a widget as a user's click does: value and callback. */
    set(id, name, value) {
      widget(id, name).value = value;
      widget(id, name).callback?.(value);
    },

    steps: (id) =>
      [...element(id).querySelectorAll("[data-step]")].map(({ dataset: { stage, deep, xattn, cfg } }) => ({
        stage,
        deep,
        xattn,
        cfg,
      })),
    text: (id, part) => element(id).querySelector(`.${part || "content"}`).textContent,
    state: (id) => element(id).dataset.state,
    isMarked: (id) => element(id).querySelector(".now") !== null,
    isShown: (id) => element(id).isConnected,

    /** From now on, note each step that a timeline marks as running in `marks`. */
    collectMarks(id) {
      const seen = (this.marks = []);
      new MutationObserver(() => {
        const mark = element(id).querySelector(".now");
        if (!mark) return;
        const step = Math.round((parseFloat(mark.getAttribute("x")) / 100) * this.steps(id).length);
        if (seen.at(-1) !== step) seen.push(step);
      }).observe(element(id), { childList: true, subtree: true });
    },

    /** Lay the nodes side by side, so that none covers another. */
    spread() {
      for (const [i, each] of app.rootGraph.nodes.entries()) each.pos = [450 * i, 0];
    },

    /** Bring a node to the middle of the page. */
    show(id, zoom) {
      const { pos, size } = node(id);
      const { ds, canvas } = app.canvas;
      const view = canvas.getBoundingClientRect();
      ds.scale = zoom;
      ds.offset[0] = view.width / 2 / zoom - pos[0] - size[0] / 2;
      ds.offset[1] = view.height / 2 / zoom - pos[1] - size[1] / 2;
      app.canvas.setDirty(true, true);
    },

    /** Where canvas mode draws the right arrow of a number. */
    arrow(id, name) {
      const { pos, size } = node(id);
      return onPage([pos[0] + size[0] - 25, pos[1] + widget(id, name).y + 10]);
    },

    /** [width, height] of each picture that a node shows. */
    pictures(id) {
      const shown = document.querySelector(`[data-node-id="${id}"]`);
      const pictures = shown ? [...shown.querySelectorAll("img")] : (node(id).imgs ?? []);
      return pictures.map(({ naturalWidth, naturalHeight }) => [naturalWidth, naturalHeight]);
    },

    /** [width, height] of each picture in a node's output. */
    outputPictures(id) {
      const files = app.nodeOutputs[id]?.images ?? [];
      const size = async (file) => {
        const picture = await fetch(`view?${new URLSearchParams(file)}`);
        const { width, height } = await createImageBitmap(await picture.blob());
        return [width, height];
      };
      return Promise.all(files.map(size));
    },

    /** Where a timeline, or a part of it, lies on the page. */
    box: (id, part) => corners((part ? element(id).querySelector(part) : element(id)).getBoundingClientRect()),

    nodeBox(id) {
      const shown = document.querySelector(`[data-node-id="${id}"]`);
      if (shown) return corners(shown.getBoundingClientRect());
      const { pos, size } = node(id);
      const [left, top] = onPage(pos);
      const [right, bottom] = onPage([pos[0] + size[0], pos[1] + size[1]]);
      return { left, right, top, bottom };
    },

    /** Pairs of nodes of which one lies on the other, as drawn: a node may be larger than its file says. */
    nodesOnOthers() {
      const boxes = app.rootGraph.nodes.map((each) => {
        const box = this.nodeBox(String(each.id));
        const title = document.querySelector(`[data-node-id="${each.id}"]`) ? 0 : LiteGraph.NODE_TITLE_HEIGHT;
        return { ...box, top: box.top - title * app.canvas.ds.scale, name: `${each.id} ${each.type}` };
      });
      const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
      return boxes.flatMap((a, i) => boxes.slice(i + 1).flatMap((b) => (meet(a, b) ? [[a.name, b.name]] : [])));
    },

    /** WCAG contrast of a part's colour with the timeline's ground, as painted. */
    contrast(id, part, property) {
      const ground = [document.body, element(id)].map((each) => getComputedStyle(each).backgroundColor);
      const colour = getComputedStyle(element(id).querySelector(part))[property];
      const [darker, lighter] = [ground, [...ground, colour]]
        .map((layers) => luminance(painted(layers)))
        .sort((a, b) => a - b);
      return (lighter + 0.05) / (darker + 0.05);
    },
  };
})();
