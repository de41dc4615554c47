"""Scores against independent implementations: torchmetrics for likeness, transformers' CLIP for the CLIP score."""

import importlib.util
import json
from types import SimpleNamespace

import comfy.sd
import comfy.sd1_clip
import pytest
import torch
import transformers
from comfy.clip_vision import ClipVisionModel
from comfy.supported_models_base import ClipTarget
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

import tiny_pipeline
from postdiff.postdiff_core.calibrate.grid import Candidate
from postdiff.postdiff_core.calibrate.runs import PromptSeed
from postdiff.postdiff_core.calibrate.scores import ClipScore, UncachedSimilarity
from postdiff.postdiff_core.schedule import CFGCutoff, MixedResolution, Settings

PICTURE = PromptSeed("a red apple on a table", 1)
MIXED = Settings(MixedResolution(0.5, 0.5))
WIDTH = 16
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_act": "quick_gelu",
    "projection_dim": WIDTH,
    "eos_token_id": 49407,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_channels": 3,
    "hidden_act": "quick_gelu",
    "image_size": 224,
    "patch_size": 32,
    "projection_dim": WIDTH,
}


class Drawn:
    """Runs whose pictures are given."""

    def __init__(self, images, latents=None):
        self.images, self.latents, self.vae = images, latents or {}, tiny_pipeline.Vae()

    def image(self, candidate, picture):
        return self.images[candidate]

    def latent(self, candidate, picture):
        return self.latents[candidate]


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def reference():
    """A random CLIP of transformers' own."""
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=WIDTH)
    return transformers.CLIPModel(config).eval()


@pytest.fixture(scope="module")
def clip_vision(reference, tmp_path_factory):
    config = tmp_path_factory.mktemp("clip") / "config.json"
    config.write_text(json.dumps({**VISION, "model_type": "clip_vision_model"}))
    model = ClipVisionModel(str(config))
    weights = {name: value for name, value in reference.state_dict().items() if name.startswith("vis")}
    missing, unexpected = model.load_sd(weights)
    assert not missing and all("position_ids" in name for name in unexpected)
    return model


@pytest.fixture(scope="module")
def clip(reference):
    target = ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    made = comfy.sd.CLIP(target, model_options={"clip_l_model_config": TEXT})
    weights = {name: value for name, value in reference.state_dict().items() if name.startswith("text")}
    missing, unexpected = made.cond_stage_model.load_sd(weights)
    assert not missing and all("position_ids" in name for name in unexpected)
    return made


@torch.no_grad()
def test_the_clip_score_on_comfyuis_classes_is_transformers_cosine(reference, clip, clip_vision):
    candidate, image = Candidate(4, Settings()), noise(224, 224, 3)
    score = ClipScore(Drawn({candidate: image}), clip_vision, clip).values(candidate, PICTURE)["CLIP score"]
    ids = torch.tensor([[token for token, _ in clip.tokenize(PICTURE.prompt)["l"][0]]])
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (clip_vision.image_mean, clip_vision.image_std))
    pixels = ((image * 255).round() / 255).movedim(-1, 0)[None]
    out = reference(input_ids=ids, pixel_values=(pixels - mean) / std)
    expected = 100 * torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds).item()
    assert score == pytest.approx(expected, abs=0.05)  # the text encoder computes in 16 bit


def test_likeness_is_psnr_and_ssim_to_the_run_with_the_same_change_of_resolution():
    candidate = Candidate(6, Settings(MIXED.mixed_resolution, cfg_cutoff=CFGCutoff(0.5)))
    reference, other = Candidate(8, MIXED), Candidate(8, Settings())
    images = {candidate: noise(48, 48, 3), reference: noise(48, 48, 3).lerp(noise(48, 48, 3, seed=1), 0.2)}
    images[other] = noise(48, 48, 3, seed=2)
    latents = {candidate: torch.ones(1, 4, 6, 6), reference: torch.full((1, 4, 6, 6), 0.8)}
    found = UncachedSimilarity(Drawn(images, latents), 8).values(candidate, PICTURE)
    one, two = (images[each].movedim(-1, 0)[None] for each in (candidate, reference))
    assert next(iter(found)) == "PSNR"
    assert found["PSNR"] == pytest.approx(peak_signal_noise_ratio(one, two, data_range=1.0).item(), abs=1e-3)
    expected = structural_similarity_index_measure(one, two, data_range=1.0).item()
    assert found["SSIM"] == pytest.approx(expected, abs=0.01)
    assert found["latent error"] == pytest.approx(0.25)


def test_equal_pictures_have_a_finite_psnr():
    candidate, image = Candidate(8, Settings()), noise(16, 16, 3)
    latents = {candidate: torch.ones(1, 4, 2, 2)}
    assert UncachedSimilarity(Drawn({candidate: image}, latents), 8).values(candidate, PICTURE)[
        "PSNR"
    ] == pytest.approx(100)


def test_without_kornia_the_remedy_is_named_before_anything_is_drawn(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install kornia.*, or connect clip_vision"):
        UncachedSimilarity(Drawn({}, {}), 8)


def test_an_image_encoder_without_a_text_side_is_refused(clip):
    siglip = SimpleNamespace(model=torch.nn.Identity(), patcher=tiny_pipeline.ClipVision().patcher)
    with pytest.raises(ValueError, match=r"no projection shared with a text encoder.*SigLIP"):
        ClipScore(Drawn({}), siglip, clip)


def test_a_text_encoder_that_is_no_clip_is_refused(clip_vision):
    t5 = tiny_pipeline.Clip()
    t5.cond_stage_model.encode_token_weights = lambda tokens: (torch.zeros(1, 1, 8), None)
    with pytest.raises(ValueError, match=r"needs a CLIP text encoder.*CLIPLoader"):
        ClipScore(Drawn({}), clip_vision, t5)


def test_a_text_encoder_without_its_projection_is_refused(clip_vision):
    bare = tiny_pipeline.Clip()
    bare.cond_stage_model.encode_token_weights = lambda tokens: (torch.zeros(1, 1, 8), torch.zeros(1, WIDTH))
    with pytest.raises(ValueError, match=r"no text projection.*SD1\.5.*CLIPLoader"):
        ClipScore(Drawn({}), clip_vision, bare)


def pairing(shared):
    """A CLIP score on pictures that show their prompt in the embedding, if both sides share it."""
    embeddings = {
        prompt: torch.nn.functional.one_hot(torch.tensor(i), 8)[None].float() for i, prompt in enumerate("abcd")
    }
    text = tiny_pipeline.Clip()
    text.cond_stage_model.encode_token_weights = lambda tokens: (None, embeddings.get(tokens, torch.ones(1, 8)))
    vision = tiny_pipeline.ClipVision()
    shift = 0 if shared else 1
    vision.encode_image = lambda image: {"image_embeds": embeddings["abcd"[(int(image[0, 0, 0, 0]) + shift) % 4]]}
    images = {Candidate(8 + i, Settings()): torch.full((8, 8, 3), float(i)) for i in range(4)}
    score = ClipScore(Drawn(images), vision, text)
    return score.doubt([(candidate, PromptSeed("abcd"[i], 1)) for i, candidate in enumerate(images)])


def test_encoders_of_one_family_raise_no_doubt_and_others_of_equal_width_do():
    assert pairing(shared=True) is None
    assert "may not belong to one family" in pairing(shared=False)
