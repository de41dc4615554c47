/** PostDiff Report as large as its picture needs to be read; a graph that is loaded brings sizes of its own. */

import { app } from "../../scripts/app.js";

const SIZE = [560, 360];

app.registerExtension({
  name: "postdiff.report",
  nodeCreated(node) {
    if (node.comfyClass === "PostDiffReport") node.setSize(SIZE);
  },
});
