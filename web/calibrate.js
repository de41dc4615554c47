/** One picture on the calibration node: while it runs the last one drawn, then the outcome. */

import { app } from "../../scripts/app.js";

/** Whether the node shows a live preview; the last of a run shows the outcome. A reload takes it away. */
function hasPreview(node) {
  const previews = app.nodePreviewImages[app.extensionManager.workflow.nodeToNodeLocatorId(node)];
  return Boolean(previews?.length);
}

app.registerExtension({
  name: "postdiff.calibrate",
  nodeCreated(node) {
    if (node.comfyClass !== "PostDiffCalibrate") return;
    // Nodes 2.0 would show the output beside the preview; canvas mode shows an output only where no preview is.
    Object.defineProperty(node, "hideOutputImages", { get: () => hasPreview(node) });
  },
});
