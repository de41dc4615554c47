"""Write the graphs in workflows/: `python dev.py workflows`.

Each runs as it is once the files it names are there, and draws the same picture twice, as ComfyUI alone would and with
PostDiff; one calibrates. After a change, `python dev.py screenshots thumbnails` pictures them anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from api_form import ObjectInfo
from canvas_graph import GAP, TITLE, Column, Graph, Node, Output
from host import serving
from pack import ROOT

FOLDER = ROOT / "workflows"
BLUE, GREEN, PURPLE, GREY = "#3f789e", "#4f9a54", "#a1309b", "#777777"
# Narrow columns: the canvas opens a graph at the zoom at which all of it is in view, and below 0.57 it draws no text.
LOADER_WIDTH, TEXT_WIDTH, SAMPLER_WIDTH, PICTURE_WIDTH = 290, 260, 300, 250
AUTO_WIDTH = 340  # of a sampler whose timeline also says which preset auto took
MASK_WIDTH, MIN_WIDTH = 230, 225  # Nodes 2.0 draws no node narrower than the latter
CALIBRATE_WIDTH = 400
HUB = "https://huggingface.co"

SD15 = "DreamShaper_7_pruned.safetensors"  # the paper's
SDXL = "sd_xl_base_1.0.safetensors"
PIXART = "PixArt-XL-2-1024-MS.safetensors"
T5 = "t5xxl_fp16.safetensors"
SD_VAE = "vae-ft-mse-840000-ema-pruned.safetensors"
LCM_LORA = "lcm-lora-sdv1-5.safetensors"
STYLE_LORA = "blindbox_V1Mix.safetensors"
CANNY = "control_v11p_sd15_canny_fp16.safetensors"

RESULTS = "What comes out"

ANOTHER_PICTURE = (
    "It is another picture than the stock one, as with another seed: its layout is decided at low resolution."
)
COMPARE = "The first run also loads the model: to compare, run again with another seed in both samplers."

PROMPT = "a lighthouse on a cliff at sunset, waves, detailed painting"
UNWANTED = "text, watermark, blurry"

# Each file's folder under models/ and its address; the notes say where those without one come from.
MODELS = {
    SD15: ("checkpoints", f"{HUB}/Lykon/DreamShaper/resolve/main/{SD15}"),
    SDXL: ("checkpoints", f"{HUB}/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/{SDXL}"),
    PIXART: ("diffusion_models", ""),
    T5: ("text_encoders", f"{HUB}/comfyanonymous/flux_text_encoders/resolve/main/{T5}"),
    SD_VAE: ("vae", f"{HUB}/stabilityai/sd-vae-ft-mse-original/resolve/main/{SD_VAE}"),
    LCM_LORA: ("loras", ""),
    STYLE_LORA: ("loras", ""),
    CANNY: ("controlnet", f"{HUB}/comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main/{CANNY}"),
}


@dataclass
class Scene:
    """What both samplers of a graph read."""

    model: Output
    clip: Output
    vae: Output
    positive: Output
    negative: Output
    latent: Output

    def inputs(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "positive": self.positive,
            "negative": self.negative,
            "latent_image": self.latent,
        }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with serving("--cpu") as server:
        for name, text in written(server.get("/object_info")).items():
            path = FOLDER / f"{name}.json"
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(ROOT))


def written(object_info: ObjectInfo) -> dict[str, str]:
    """The content of every shipped workflow file, by its name."""
    texts = {}
    for lay_out in GRAPHS:
        graph = Graph(lay_out.__name__, object_info, MODELS)
        lay_out(graph)
        texts[graph.name] = json.dumps(graph.document(), indent=1, ensure_ascii=False) + "\n"
    return texts


def less_work(times: float, percent: int) -> str:
    return f"{times:g} times less work a picture (the timeline says -{percent} % work)"


def embedded_model_side_by_side(graph: Graph) -> None:
    left = graph.column(0, LOADER_WIDTH)
    left.note(
        """
## The same prompt and seed, twice

Above, ComfyUI's own KSampler; below, **KSampler (PostDiff)**: the same inputs, cheaper steps. Its timeline shows what
each step will do and, after a run, what it saved.

The model ships with the pack and draws emoji at 256 x 256: a style, *noto* or *fluent*, and a name. Try *noto red
apple*, *noto lemon on a blue background*, *fluent crab and sunflower*; its help lists the names.

It is another picture than the stock one, as with another seed: its layout is decided at low resolution.

In a graph of your own: replace KSampler by **KSampler (PostDiff)**.
"""
    )
    middle = graph.column(left.right, TEXT_WIDTH)
    scene = embedded_scene(left, middle, middle, "noto red apple")
    sampling = {"seed": 1, "steps": 20, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}
    samplers = graph.column(middle.right, AUTO_WIDTH)
    side_by_side(graph, samplers, scene, sampling, preset="auto", reported=False)


def embedded_model_inpainting(graph: Graph) -> None:
    left = graph.column(0, LOADER_WIDTH)
    left.note(
        """
## Repaint a part, keep the rest

First a picture is drawn, then only what lies under the mask (here the lower half, with a soft edge) is drawn again
with another prompt. **Set Latent Noise Mask** works with **KSampler (PostDiff)** as with KSampler: the early steps
repaint at low resolution, and what lies outside the mask stays what it was.

The model ships with the pack; nothing to download.
"""
    )
    middle = graph.column(left.right, TEXT_WIDTH)
    scene = embedded_scene(left, left, middle, "noto sunflower")
    sampling = {"seed": 1, "steps": 20, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}
    middle.begin_group()
    drawn = middle.add("KSampler", "Draw the picture", **scene.inputs(), **sampling)
    graph.group("The picture to change", PURPLE, drawn)
    middle.begin_group()
    prompt = middle.add("CLIPTextEncode", "Prompt for the masked part", clip=scene.clip, text="noto potted plant")
    masks = graph.column(middle.right, MASK_WIDTH)
    size = {"width": 256, "height": 256}
    nothing = masks.add("SolidMask", "Keep everything", value=0.0, **size)
    half = masks.add("SolidMask", "Repaint this much", value=1.0, width=256, height=128)
    soft = masks.add("FeatherMask", "With a soft edge", mask=half["MASK"], top=16)
    mask = masks.add(
        "MaskComposite",
        "... in the lower half",
        destination=nothing["MASK"],
        source=soft["MASK"],
        y=128,
        operation="add",
    )
    masked = masks.add("SetLatentNoiseMask", samples=drawn["LATENT"], mask=mask["MASK"])
    graph.group("What to repaint", PURPLE, nothing, half, soft, mask, masked)
    scene.positive, scene.latent = prompt["CONDITIONING"], masked["LATENT"]
    samplers = graph.column(masks.right, AUTO_WIDTH)
    decoders = graph.column(samplers.right, PICTURE_WIDTH)
    pictures = decoders.beside(PICTURE_WIDTH)
    before = decoders.add("VAEDecode", samples=drawn["LATENT"], vae=scene.vae)
    shown = decoders.add("PreviewImage", "Before", images=before["IMAGE"])
    sampling["seed"] = 3
    stock, postdiff = both_samplers(graph, samplers, [(decoders, pictures)] * 2, scene, sampling, preset="auto")
    graph.group(RESULTS, GREY, before, shown, *stock[1:], *postdiff[1:])


def embedded_model_sampler_custom_advanced(graph: Graph) -> None:
    left = graph.column(0, LOADER_WIDTH - 30)
    left.note(
        """
## PostDiff where the sampler is not KSampler

**SamplerCustomAdvanced** takes noise, guider, sampler and sigmas from other nodes. The four techniques go onto the
model before the guider, as patches: each alone or together, in any order. Bypass one (Ctrl+B) to see what it
contributes.

- **Mixed Resolution (patch)**: early steps at low resolution; **switch** matched suits the embedded model
- **Deep Cache**: from a quarter of the run on, two of three steps reuse the deep blocks; this suits the embedded model
- **Cross-Attention Cache**, **CFG Cut-off**: the last quarter

With a model of your own: put its loader in place of **Embedded Model** and set prompts, size and cfg to what it needs;
for SDXL also low_res_scale 0.75 and low_res_until 0.2. Deep Cache needs a U-Net (SD1.5, SDXL); the paper has interval 2
and start_percent 0 there.
"""
    )
    middle = graph.column(left.right, TEXT_WIDTH - 30)
    scene = embedded_scene(left, middle, left, "fluent crab and sunflower")
    middle.begin_group()
    noise = middle.add("RandomNoise", noise_seed=1)
    sampler = middle.add("KSamplerSelect", sampler_name="euler")
    sigmas = middle.add("BasicScheduler", model=scene.model, scheduler="normal", steps=20)
    graph.group("Both runs share these", PURPLE, noise, sampler, sigmas)

    def run(guiders: Column, samplers: Column, model: Output) -> tuple[Node, Node]:
        prompts = {"positive": scene.positive, "negative": scene.negative}
        guider = guiders.add("CFGGuider", model=model, cfg=3.0, **prompts)
        inputs = {"noise": noise["NOISE"], "sampler": sampler["SAMPLER"], "sigmas": sigmas["SIGMAS"]}
        run = samplers.add("SamplerCustomAdvanced", guider=guider["GUIDER"], latent_image=scene.latent, **inputs)
        return guider, run

    first = graph.column(middle.right, MIN_WIDTH)
    second = first.beside(MIN_WIDTH)
    third = second.beside(MIN_WIDTH)
    pictures = graph.column(third.right, MIN_WIDTH)
    guider, stock = run(first, second, scene.model)
    shown = decode(third, pictures, stock["output"], scene.vae, "Stock")
    graph.group("Stock", BLUE, guider, stock, shown[0])
    for column in (first, second, third):
        column.y = stock.box[1] + stock.box[3] + TITLE + GAP
        column.begin_group()
    placed = [first.add("MixedResolutionPatch", model=scene.model, switch="matched")]
    placed.append(first.add("DeepCachePatch", model=placed[-1]["MODEL"], interval=3, start_percent=0.25))
    for kind in ("CrossAttnCachePatch", "CFGCutoff"):
        placed.append(second.add(kind, model=placed[-1]["MODEL"]))
    guider, postdiff = run(third, third, placed[-1]["MODEL"])
    shown += decode(third, pictures.beside(MIN_WIDTH), postdiff["output"], scene.vae, "With PostDiff")
    graph.group("With PostDiff: same seed, same steps", GREEN, *placed, guider, postdiff, shown[2])
    told = report(graph, placed[-1]["MODEL"], postdiff["output"], shown[1], shown[3])
    graph.group(RESULTS, GREY, shown[1], shown[3], told)


def calibrate_embedded_model(graph: Graph) -> None:
    left = graph.column(0, LOADER_WIDTH)
    left.note(
        """
## How to calibrate your model

- Put your loader in place of **Embedded Model**, LoRAs behind it.
- In **PostDiff Calibrate**, set prompts, size, sampler and steps to what you use; one prompt per line, twenty or
more. The four here only show how it goes.
- Queue. It draws the prompts with many settings, keeps the better half and goes on. Cancel when you like: queue again
and it goes on where it was.
- Its picture shows score against work, with the chosen settings in orange. Look at the examples below the plot.
- The preset is saved under its preset_name: press R, and every **KSampler (PostDiff)** offers it. Here it comes through
a link; set prompt, size and cfg of the sampler on the right to yours, too.

Without a CLIP vision model it ranks all settings but those of low resolution, which composes another picture: no
comparison with the stock run can judge that. To rank them too, connect **Load CLIP Vision** to clip_vision.
Help (select the node, then the i button, Node Info) says more.
"""
    )
    loader = left.add("PostDiffEmbeddedModel")
    model = {"model": loader["MODEL"], "clip": loader["CLIP"], "vae": loader["VAE"]}
    names = ("noto red apple", "fluent crab", "noto lemon on a blue background", "fluent dog and ufo")
    sampling = {"cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}
    second = graph.column(left.right, CALIBRATE_WIDTH)
    calibrate = second.add(  # nothing below it: it grows
        "PostDiffCalibrate",
        **model,
        **sampling,
        prompts="\n".join(names),
        steps="12, 20",
        width=256,
        height=256,
        seeds=1,
        min_speedup=2.0,
        preset_name="my emoji model",
    )
    third = graph.column(second.right, TEXT_WIDTH)
    scene = prompted(third, **model, side=256, text="noto hamburger", unwanted="")
    use = {"seed": 1, "steps": calibrate["steps"], **sampling, "preset": calibrate["preset"]}
    samplers = graph.column(third.right, SAMPLER_WIDTH)
    sampler = samplers.add("PostDiffKSampler", **scene.inputs(), **use)
    pictures = samplers.beside(PICTURE_WIDTH)
    shown = decode(pictures, pictures, sampler["LATENT"], scene.vae, "With PostDiff")
    graph.group("Use the settings found", GREEN, sampler, *shown)


def sd15_side_by_side(graph: Graph) -> None:
    left = graph.column(0, LOADER_WIDTH)
    left.note(
        f"""
## SD1.5 with the paper's settings

768 x 768, 20 steps, cfg 7.5. The same prompt and seed with KSampler (above) and with **KSampler (PostDiff)** (below),
which takes the first half of the steps at 384 pixels, reuses the deep branch in every second one and drops the negative
prompt for the last quarter (the paper's beta 1/2, s 1/2, k 2, m 3/4).

**File**: [{SD15}]({MODELS[SD15][1]}) in **models/checkpoints**, the one that the paper used. Other finetunes of SD1.5
do as well; the original SD v1.5 draws badly at half size: there put **Mixed Resolution (patch)** with low_res_scale
0.75 before the sampler, or use **PostDiff Calibrate**.

**What to expect**: {less_work(3.3, 70)}. The authors measured 2.57x on an A5000. {ANOTHER_PICTURE}
{COMPARE} At 512 pixels choose **auto**: it begins at 384 pixels, where **sd15** would begin at 256.
"""
    )
    middle = graph.column(left.right, TEXT_WIDTH)
    scene = checkpoint_scene(left, middle, SD15, 768)
    sampling = {"seed": 1, "steps": 20, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal"}
    side_by_side(graph, graph.column(middle.right, SAMPLER_WIDTH), scene, sampling, preset="sd15")


def lcm_side_by_side(graph: Graph) -> None:
    left = graph.column(0, LOADER_WIDTH)
    left.note(
        f"""
## LCM in eight steps, and cheaper ones

768 x 768, 8 steps, cfg 1: the first half at 384 pixels, the second with cross-attention reused (beta 1/2, s 1/2,
m 1/2). No deep cache.

**Files**: [{SD15}]({MODELS[SD15][1]}) in **models/checkpoints**; [the LCM
LoRA]({HUB}/latent-consistency/lcm-lora-sdv1-5/resolve/main/pytorch_lora_weights.safetensors), renamed to {LCM_LORA},
in **models/loras**.

**What to expect**: {less_work(1.7, 42)}. The authors measured 1.27x on an A5000. No
speed-up is shown: no step takes what a stock step does. {ANOTHER_PICTURE}
{COMPARE}
"""
    )
    loader = left.add("CheckpointLoaderSimple", ckpt_name=SD15)
    lora = left.add("LoraLoader", "LCM LoRA", model=loader["MODEL"], clip=loader["CLIP"], lora_name=LCM_LORA)
    lcm = left.add("ModelSamplingDiscrete", "LCM's noise schedule", model=lora["MODEL"], sampling="lcm")
    middle = graph.column(left.right, TEXT_WIDTH)
    scene = prompted(middle, lcm["MODEL"], lora["CLIP"], loader["VAE"], 768)
    sampling = {"seed": 1, "steps": 8, "cfg": 1.0, "sampler_name": "lcm", "scheduler": "sgm_uniform"}
    side_by_side(graph, graph.column(middle.right, SAMPLER_WIDTH), scene, sampling, preset="lcm")


def sdxl_side_by_side(graph: Graph) -> None:
    left = graph.column(0, LOADER_WIDTH)
    left.note(
        f"""
## SDXL with the paper's settings

1024 x 1024, 20 steps, cfg 5. The same prompt and seed with KSampler (above) and with **KSampler (PostDiff)** (below),
which takes the first fifth of the steps at 768 pixels, reuses the deep branch in every second one and drops the
negative prompt for the last quarter (the paper's beta 3/4, s 1/5, k 2, m 3/4).

**File**: [{SDXL}]({MODELS[SDXL][1]}) in **models/checkpoints**. Any other SDXL checkpoint does as well. For Turbo,
Lightning and Hyper choose **auto** as preset and set steps and cfg to what they ask for: at no more than 10 steps and
cfg 1.5 it knows them and leaves the deep cache out. With a higher cfg, put **Deep Cache** with interval 1 before the
sampler.

**What to expect**: {less_work(2.4, 59)}. The authors measured 2.09x on an A5000. {ANOTHER_PICTURE}
{COMPARE}
"""
    )
    middle = graph.column(left.right, TEXT_WIDTH)
    scene = checkpoint_scene(left, middle, SDXL, 1024)
    sampling = {"seed": 1, "steps": 20, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal"}
    side_by_side(graph, graph.column(middle.right, SAMPLER_WIDTH), scene, sampling, preset="sdxl")


def pixart_alpha_side_by_side(graph: Graph) -> None:
    left = graph.column(0, LOADER_WIDTH)
    left.note(
        f"""
## PixArt-alpha with the paper's settings

1024 x 1024, 20 steps, cfg 4.5. The first half of the steps runs at 768 pixels, the last quarter without negative prompt
(beta 3/4, s 1/2, m 3/4). No deep cache: a transformer has no skip connections.

**Files**: [the transformer]({HUB}/PixArt-alpha/PixArt-XL-2-1024-MS/tree/main/transformer), renamed to {PIXART}, in
**models/diffusion_models**; [{T5}]({MODELS[T5][1]}) in **models/text_encoders**;
[the SD1.5 VAE]({MODELS[SD_VAE][1]}) in **models/vae**.

**What to expect**: {less_work(1.7, 40)}. The authors measured 1.49x on an A5000, 1.27x on an H100.
{ANOTHER_PICTURE} {COMPARE}
PixArt-sigma: the same graph, with the SDXL VAE and CLIP Text Encode.
"""
    )
    model = left.add("UNETLoader", unet_name=PIXART, weight_dtype="default")
    clip = left.add("CLIPLoader", clip_name=T5, type="pixart")
    vae = left.add("VAELoader", vae_name=SD_VAE)
    middle = graph.column(left.right, TEXT_WIDTH)
    size = {"width": 1024, "height": 1024, "clip": clip["CLIP"]}
    positive = middle.add("CLIPTextEncodePixArtAlpha", "Prompt", text=PROMPT, **size)
    negative = middle.add("CLIPTextEncodePixArtAlpha", "Negative prompt", text="", **size)
    latent = middle.add("EmptyLatentImage", width=1024, height=1024)
    prompts = positive["CONDITIONING"], negative["CONDITIONING"]
    scene = Scene(model["MODEL"], clip["CLIP"], vae["VAE"], *prompts, latent["LATENT"])
    sampling = {"seed": 1, "steps": 20, "cfg": 4.5, "sampler_name": "euler", "scheduler": "normal"}
    side_by_side(graph, graph.column(middle.right, SAMPLER_WIDTH), scene, sampling, preset="pixart_alpha")


def controlnet_lora(graph: Graph) -> None:
    left = graph.column(0, LOADER_WIDTH)
    left.note(
        f"""
## ControlNet and LoRA, with PostDiff

Nothing special to do: the LoRA is on the model, the ControlNet on the prompts, PostDiff in the sampler. Hints are
scaled with the steps at low resolution.

**Files**: [{SD15}]({MODELS[SD15][1]}) in **models/checkpoints**;
[{CANNY}]({MODELS[CANNY][1]}) in **models/controlnet**; any SD1.5 LoRA in **models/loras** (here
{STYLE_LORA}, from ComfyUI's LoRA tutorial).

**What to expect**: the picture follows the edges in both runs. The ControlNet itself runs in every step, so the
speed-up is smaller than without. At 512 pixels, or with a checkpoint of another kind, choose **auto**.
"""
    )
    loader = left.add("CheckpointLoaderSimple", ckpt_name=SD15)
    lora = left.add("LoraLoader", "Style LoRA", model=loader["MODEL"], clip=loader["CLIP"], lora_name=STYLE_LORA)
    control = left.add("ControlNetLoader", control_net_name=CANNY)
    middle = graph.column(left.right, TEXT_WIDTH)
    scene = prompted(middle, lora["MODEL"], lora["CLIP"], loader["VAE"], 768)
    hints = graph.column(middle.right, TEXT_WIDTH)
    image = hints.add("LoadImage", "What to follow", image="example.png")
    edges = hints.add("Canny", "Its edges", image=image["IMAGE"])
    prompts: dict[str, Any] = {"positive": scene.positive, "negative": scene.negative}
    applied = hints.add(
        "ControlNetApplyAdvanced", **prompts, control_net=control["CONTROL_NET"], image=edges["IMAGE"], strength=0.8
    )
    graph.group("ControlNet", PURPLE, image, edges, applied)
    scene.positive, scene.negative = applied["positive"], applied["negative"]
    sampling = {"seed": 1, "steps": 20, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal"}
    side_by_side(graph, graph.column(hints.right, SAMPLER_WIDTH), scene, sampling, preset="sd15")


def inpainting(graph: Graph) -> None:
    left = graph.column(0, LOADER_WIDTH)
    left.note(
        f"""
## Inpainting with PostDiff

A part of a picture is repainted, the rest stays. Works with ordinary and with inpainting checkpoints.

**File**: [{SD15}]({MODELS[SD15][1]}) in **models/checkpoints**.

**Your own mask**: right-click **Load Image**, *Open in MaskEditor*, paint, then connect its MASK to **Set Latent
Noise Mask** in place of the square.

**What to expect**: outside the mask both results are the original (as well as the VAE can give it back); inside, the
early steps repaint at low resolution. At 512 pixels, or with a checkpoint of another kind, choose **auto**.
"""
    )
    loader = left.add("CheckpointLoaderSimple", ckpt_name=SD15)
    positive, negative = prompts(left, loader["CLIP"], "a lighthouse on a cliff", UNWANTED)
    masks = graph.column(left.right, MASK_WIDTH)
    pictures = graph.column(masks.right, TEXT_WIDTH)
    image = pictures.add("LoadImage", "Picture to change", image="example.png")
    encoded = pictures.add("VAEEncode", pixels=image["IMAGE"], vae=loader["VAE"])
    around = masks.add("SolidMask", "Keep this", value=0.0, width=768, height=768)
    square = masks.add("SolidMask", "Repaint this", value=1.0, width=384, height=384)
    edge = dict.fromkeys(("left", "top", "right", "bottom"), 48)
    soft = masks.add("FeatherMask", "With a soft edge", mask=square["MASK"], **edge)
    place = {"destination": around["MASK"], "source": soft["MASK"], "x": 192, "y": 192, "operation": "add"}
    mask = masks.add("MaskComposite", "... in the middle", **place)
    graph.group("A square mask", PURPLE, around, square, soft, mask)
    masked = pictures.add("SetLatentNoiseMask", samples=encoded["LATENT"], mask=mask["MASK"])
    graph.group("What to repaint", PURPLE, image, encoded, masked)
    scene = Scene(loader["MODEL"], loader["CLIP"], loader["VAE"], positive, negative, masked["LATENT"])
    sampling = {"seed": 1, "steps": 20, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.9}
    side_by_side(graph, graph.column(pictures.right, SAMPLER_WIDTH), scene, sampling, preset="sd15")


def embedded_scene(left: Column, texts: Column, latents: Column, text: str) -> Scene:
    loader = left.add("PostDiffEmbeddedModel")
    return prompted(texts, loader["MODEL"], loader["CLIP"], loader["VAE"], 256, text, "", latents)


def checkpoint_scene(left: Column, middle: Column, checkpoint: str, side: int) -> Scene:
    loader = left.add("CheckpointLoaderSimple", ckpt_name=checkpoint)
    return prompted(middle, loader["MODEL"], loader["CLIP"], loader["VAE"], side)


def prompted(
    column: Column,
    model: Output,
    clip: Output,
    vae: Output,
    side: int,
    text: str = PROMPT,
    unwanted: str = UNWANTED,
    latents: Column | None = None,
) -> Scene:
    """Both prompts and, below them unless it has a column of its own, an empty square latent."""
    positive, negative = prompts(column, clip, text, unwanted)
    latent = (latents or column).add("EmptyLatentImage", width=side, height=side)
    return Scene(model, clip, vae, positive, negative, latent["LATENT"])


def prompts(column: Column, clip: Output, text: str, unwanted: str) -> tuple[Output, Output]:
    positive = column.add("CLIPTextEncode", "Prompt", clip=clip, text=text)
    negative = column.add("CLIPTextEncode", "Negative prompt", clip=clip, text=unwanted)
    return positive["CONDITIONING"], negative["CONDITIONING"]


def side_by_side(
    graph: Graph, samplers: Column, scene: Scene, sampling: dict[str, Any], preset: str, reported: bool = True
) -> None:
    """Both samplers, then their pictures side by side and, below these, the report."""
    left = graph.column(samplers.right, PICTURE_WIDTH)
    right = left.beside(PICTURE_WIDTH)
    stock, postdiff = both_samplers(graph, samplers, [(left, left), (right, right)], scene, sampling, preset)
    shown = [*stock[1:], *postdiff[1:]]
    if reported:
        shown.append(report(graph, postdiff[0]["MODEL"], postdiff[0]["LATENT"], stock[2], postdiff[2]))
    graph.group(RESULTS, GREY, *shown)


def both_samplers(
    graph: Graph,
    samplers: Column,
    places: list[tuple[Column, Column]],
    scene: Scene,
    sampling: dict[str, Any],
    preset: str,
) -> tuple[list[Node], list[Node]]:
    """The stock KSampler above, KSampler (PostDiff) below: each with what decodes and saves its picture."""
    stock = samplers.add("KSampler", **scene.inputs(), **sampling)
    graph.group("Stock KSampler", BLUE, stock)
    first = decode(*places[0], stock["LATENT"], scene.vae, "Stock")
    samplers.begin_group()
    postdiff = samplers.add("PostDiffKSampler", **scene.inputs(), **sampling, preset=preset)
    graph.group("PostDiff, same seed", GREEN, postdiff)
    return [stock, *first], [postdiff, *decode(*places[1], postdiff["LATENT"], scene.vae, "With PostDiff")]


def decode(decoders: Column, pictures: Column, latent: Output, vae: Output, title: str) -> list[Node]:
    """The picture of a latent, saved under its title."""
    decoded = decoders.add("VAEDecode", samples=latent, vae=vae)
    name = "PostDiff/" + title.split()[-1].lower()
    return [decoded, pictures.add("SaveImage", title, images=decoded["IMAGE"], filename_prefix=name)]


def report(graph: Graph, model: Output, latent: Output, first: Node, last: Node) -> Node:
    """What the run did, as a picture of its steps, below the two pictures."""
    left, top, _, height = first.box
    column = graph.column(left, last.box[0] + last.box[2] - left, top + height + TITLE + GAP)
    return column.add("PostDiffReport", "What each step cost", model=model, latent=latent)


GRAPHS: tuple[Callable[[Graph], None], ...] = (
    embedded_model_side_by_side,
    embedded_model_inpainting,
    embedded_model_sampler_custom_advanced,
    calibrate_embedded_model,
    sd15_side_by_side,
    lcm_side_by_side,
    sdxl_side_by_side,
    pixart_alpha_side_by_side,
    controlnet_lora,
    inpainting,
)

if __name__ == "__main__":
    main()
