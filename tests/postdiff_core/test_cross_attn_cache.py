"""Section 2.5, cross-attention cache: against the reference in plain torch."""

import dataclasses

import pytest
import torch

import companions
import pack_nodes
import tiny_models
from compare import assert_like_reference, inputs_with_prompts
from composition import CROSS, TOGETHER, Row, cell
from postdiff.postdiff_core import cross_attn_cache
from reference import Techniques

MODES = ["cond", "average", "uncond", "cfg"]


@pytest.mark.parametrize(("batch", "negative_tokens"), [(1, 7), (2, 5)])
@pytest.mark.parametrize("build", tiny_models.MODELS.values(), ids=tiny_models.MODELS)
def test_both_rows_reuse_their_own_while_guidance_runs(build, batch, negative_tokens):
    inputs = inputs_with_prompts(build(), batch=batch, negative_tokens=negative_tokens)
    assert_like_reference(Techniques(cross_attn_start=0.4, mode="uncond"), inputs)


@pytest.mark.parametrize(
    ("build", "negative_tokens"),
    [
        (tiny_models.sd15, 7),
        (tiny_models.sd15, 14),
        (tiny_models.sd15, 5),
        (tiny_models.sdxl, 7),
        (tiny_models.pixart_alpha, 7),
        (tiny_models.pixart_alpha, 5),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_the_mode_decides_what_the_remaining_row_reuses(build, mode, negative_tokens):
    inputs = inputs_with_prompts(build(), negative_tokens=negative_tokens)
    assert_like_reference(Techniques(cross_attn_start=0.4, cutoff_start=0.4, mode=mode), inputs)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("build", [tiny_models.sd2, tiny_models.pixart_sigma])
def test_the_mode_acts_from_the_cut_off_on_and_on_batches(build, mode):
    inputs = inputs_with_prompts(build(), batch=2)
    assert_like_reference(Techniques(cross_attn_start=0.3, cutoff_start=0.6, mode=mode), inputs)


def test_cfg_mode_weighs_by_the_guidance_of_the_run():
    inputs = inputs_with_prompts(tiny_models.sd15(), cfg=2.5)
    assert_like_reference(Techniques(cross_attn_start=0.5, cutoff_start=0.5, mode="cfg"), inputs)


@pytest.mark.parametrize("build", [tiny_models.sd15, tiny_models.pixart_alpha])
def test_from_the_first_step_on_each_layer_is_computed_once(build):
    assert_like_reference(Techniques(cross_attn_start=0.0), inputs_with_prompts(build()))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("build", [tiny_models.sd15, tiny_models.sdxl, tiny_models.pixart_alpha])
def test_outputs_recorded_at_low_resolution_serve_after_the_switch(build, mode):
    """c comes before L: what is reused at full size was stored at half size, and is resized on its token grid."""
    assert_like_reference(
        Techniques(low_res_scale=0.5, low_res_until=0.5, cross_attn_start=0.3, cutoff_start=0.6, mode=mode),
        inputs_with_prompts(build()),
    )


@pytest.mark.parametrize("build", [tiny_models.sd15, tiny_models.pixart_sigma])
def test_reuse_that_starts_at_the_switch_takes_the_low_resolution_outputs(build):
    assert_like_reference(
        Techniques(low_res_scale=0.5, low_res_until=0.5, cross_attn_start=0.5), inputs_with_prompts(build(), batch=2)
    )


def test_outputs_are_resized_on_the_grid_of_pictures_that_are_not_square():
    model = tiny_models.sd15()
    assert_like_reference(
        Techniques(low_res_scale=0.5, low_res_until=0.5, cross_attn_start=0.4, cutoff_start=0.4),
        inputs_with_prompts(model, latent_image=tiny_models.latent(model, 32, 48)),
    )


def test_a_layer_that_the_deep_cache_skipped_keeps_its_older_output():
    """Interval 3 at c = 5: the deep layers were last computed in step 3, the shallow ones in step 4."""
    inputs = inputs_with_prompts(tiny_models.sd15(), steps=10, scheduler="sgm_uniform")
    assert_like_reference(Techniques(interval=3, depth=2, cross_attn_start=0.5), inputs)


def with_output_patch(change):
    """An SD1.5-shaped model on which another node changes what cross-attention gives, and a cache that reuses it."""
    model = tiny_models.small_unet().clone()
    model.set_model_attn2_output_patch(lambda tokens, _options: change(tokens))
    return pack_nodes.with_cross_attn_cache(model, Techniques(cross_attn_start=0.3))


def test_a_patch_that_changes_the_output_in_place_changes_no_stored_output():
    anew = tiny_models.stock_sample(with_output_patch(lambda tokens: tokens * 0.5))
    in_place = tiny_models.stock_sample(with_output_patch(lambda tokens: tokens.mul_(0.5)))
    assert torch.equal(anew, in_place)


def test_a_patch_of_the_input_does_not_run_for_layers_that_reuse():
    model, steps = tiny_models.small_unet().clone(), []
    model.set_model_attn2_patch(
        lambda n, context, value, options: (steps.append(options["sigmas"]), (n, context, value))[1]
    )
    tiny_models.stock_sample(
        pack_nodes.with_cross_attn_cache(model, Techniques(cross_attn_start=0.5)), scheduler="simple"
    )
    assert len({sigma[0].item() for sigma in steps}) == 3


@pytest.mark.parametrize("mode", ["cond", "average"])
def test_a_layer_that_gets_another_size_while_it_reuses_is_computed_once_more(mode):
    """Deep Shrink ends three steps before the run does."""
    inputs = companions.deep_shrink(inputs_with_prompts(tiny_models.small_unet(), scheduler="simple", steps=8))
    model = pack_nodes.patched(inputs["model"], Techniques(cross_attn_start=0.5, cutoff_start=0.5, mode=mode))
    computed = []
    layer = model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn2
    layer.to_q.register_forward_hook(lambda *_: computed.append(layer))
    tiny_models.stock_sample(**inputs | {"model": model})
    assert len(computed) == 4 + 1


def test_attention_replaced_in_whole_blocks_is_replaced_where_a_layer_must_be_computed_again():
    """Deep Shrink changes the size of layers while they reuse. A replacement may name the block or the layer in it."""
    inputs = companions.ip_adapter(companions.deep_shrink(inputs_with_prompts(tiny_models.small_unet())))
    by_layer = inputs["model"]
    by_block = by_layer.clone()
    replacements = by_block.model_options["transformer_options"]["patches_replace"]
    replacements["attn2"] = {place[:2]: replacement for place, replacement in replacements["attn2"].items()}

    def latent(model):
        return tiny_models.stock_sample(
            **inputs | {"model": pack_nodes.with_cross_attn_cache(model, Techniques(cross_attn_start=0.5))}
        )

    assert torch.equal(latent(by_block), latent(by_layer))


@pytest.mark.parametrize("techniques", [Techniques(cross_attn_start=0.5), Techniques(cross_attn_start=0.5, interval=2)])
def test_layers_that_another_node_gives_more_rows_are_computed_and_that_is_said(techniques):
    inputs = companions.attention_couple(inputs_with_prompts(tiny_models.sd15()))
    without = dataclasses.replace(techniques, cross_attn_start=1.0)
    expected = tiny_models.stock_sample(pack_nodes.with_caches(inputs["model"], without))
    model = pack_nodes.with_caches(inputs["model"], techniques)
    assert torch.equal(tiny_models.stock_sample(model), expected)
    assert cross_attn_cache.OTHER_ROWS in pack_nodes.report(model)["notes"]


@pytest.mark.parametrize(
    ("mode", "cutoff_start", "cfg", "is_noted"),
    [
        ("average", 0.5, 5.0, False),
        ("average", 0.75, 5.0, False),
        ("average", 0.25, 5.0, True),  # the negative prompt no longer runs where outputs are kept
        ("average", 1.0, 5.0, True),
        ("average", 0.5, 1.0, True),
        ("cond", 0.25, 5.0, False),
    ],
)
def test_a_mode_that_decides_nothing_is_noted(mode, cutoff_start, cfg, is_noted):
    techniques = Techniques(cross_attn_start=0.5, cutoff_start=cutoff_start, mode=mode)
    patched = pack_nodes.with_caches(tiny_models.small_unet(), techniques)
    tiny_models.stock_sample(patched, steps=8, scheduler="simple", cfg=cfg)
    assert any("mode average had no effect" in note for note in pack_nodes.report(patched)["notes"]) == is_noted


def test_the_normalisation_before_a_reused_layer_is_left_out(monkeypatch):
    model, computed = tiny_models.small_unet(), []
    blocks = [module for module in model.model.modules() if "attn2" in module._modules]
    for block in blocks:
        compute = block.norm2.forward
        monkeypatch.setattr(block.norm2, "forward", lambda x, compute=compute: computed.append(1) or compute(x))
    patched = pack_nodes.with_cross_attn_cache(model, Techniques(cross_attn_start=0.5))
    tiny_models.stock_sample(patched, steps=8, scheduler="simple")
    assert len(computed) == 4 * len(blocks) > 0


class HalfAsStrong(torch.nn.Module):
    """A cross-attention of another node, without the parts that the host's has."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args, **kwargs):
        return self.layer(*args, **kwargs) / 2


def half_as_strong(inputs):
    """As Layer Diffusion does: modules are put in the place of the model's own for the length of a run."""
    model = inputs["model"].clone()
    for name, layer in inputs["model"].model.named_modules():
        if name.endswith(".attn2"):
            model.add_object_patch(name, HalfAsStrong(layer))
    return inputs | {"model": model}


@pytest.mark.parametrize("column", [CROSS, TOGETHER])
def test_modules_that_another_node_puts_in_the_layers_place_are_reused_too(column):
    assert cell(Row("half as strong", "", half_as_strong), column).state == "exact"
