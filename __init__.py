"""PostDiff for ComfyUI: cheaper denoising steps instead of fewer (ICCV 2025)."""

from comfy_api.latest import ComfyExtension, io

from .nodes.cfg_cutoff import CFGCutoff
from .nodes.cross_attn_cache_patch import CrossAttnCachePatch
from .nodes.deep_cache_patch import DeepCachePatch
from .nodes.embedded_model import PostDiffEmbeddedModel
from .nodes.mixed_resolution_ksampler import MixedResolutionKSampler
from .nodes.mixed_resolution_patch import MixedResolutionPatch
from .nodes.postdiff_calibrate import PostDiffCalibrate
from .nodes.postdiff_ksampler import PostDiffKSampler
from .nodes.postdiff_report import PostDiffReport

WEB_DIRECTORY = "./web"


class PostDiff(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            PostDiffKSampler,
            MixedResolutionKSampler,
            MixedResolutionPatch,
            DeepCachePatch,
            CrossAttnCachePatch,
            CFGCutoff,
            PostDiffReport,
            PostDiffCalibrate,
            PostDiffEmbeddedModel,
        ]


async def comfy_entrypoint() -> PostDiff:
    return PostDiff()
