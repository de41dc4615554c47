"""Which rows are whose: on several devices, and where another node lays out the batch of a model call its own way."""

from dataclasses import replace

import pytest
import torch

import companions
import pack_nodes
import tiny_models
from compare import largest_difference
from postdiff.postdiff_core.branches import Branches
from reference import EVERYTHING, Techniques

STEPS = 6


def test_rows_that_move_to_another_device_are_not_those_that_were_kept():
    """ComfyUI divides the prompts of a step among several cards."""
    branches = Branches()
    branches.begin_evaluation({})
    branches.begin_pass([[{"uuid": "one"}], [{"uuid": "other"}]], pictures=1)
    prompts = {"uuids": ["one", "other"], "cond_or_uncond": [0, 1]}
    here, there = (branches.chunks(torch.empty(2, 4, 8, 8, device=device), prompts) for device in ("cpu", "meta"))
    assert len({chunk.branch for chunk in (*here, *there)}) == 4


def test_what_two_devices_computed_is_mixed_on_one(monkeypatch):
    """Where each evaluates one of the prompts; a name is all that the second has here."""

    def chunks_apart(branches, *arguments):
        elsewhere = torch.device("meta")
        return tuple(
            replace(chunk, branch=chunk.branch._replace(device=elsewhere)) if chunk.role == "negative" else chunk
            for chunk in chunks_of(branches, *arguments)
        )

    model = pack_nodes.with_caches(tiny_models.small_unet(), EVERYTHING)
    together = tiny_models.stock_sample(model, steps=STEPS, scheduler="simple")
    chunks_of = Branches.chunks
    monkeypatch.setattr(Branches, "chunks", chunks_apart)
    assert torch.equal(tiny_models.stock_sample(model, steps=STEPS, scheduler="simple"), together)


@pytest.mark.parametrize("companion", [companions.tiles_in_one_batch, companions.row_by_row])
def test_rows_that_another_node_lays_out_its_own_way_are_told_apart_as_a_whole_only(companion, monkeypatch):
    model, given, chunks_of = companion({"model": tiny_models.sd15()})["model"], [], Branches.chunks

    def look(branches, x, options):
        given.append((x.shape[0], chunks_of(branches, x, options)))
        return given[-1][1]

    monkeypatch.setattr(Branches, "chunks", look)
    patched = pack_nodes.with_caches(model, Techniques(interval=2))
    tiny_models.stock_sample(patched, latent_image=tiny_models.latent(model, 16, 32), steps=STEPS)
    assert given
    for number, chunks in given:
        (chunk,) = chunks
        assert chunk.role is None and not chunk.guided and chunk.span == slice(0, number)


@pytest.mark.parametrize("techniques", [Techniques(interval=2), Techniques(cross_attn_start=0.5)])
def test_a_model_called_row_by_row_gives_what_it_gives_at_once(techniques):
    model = tiny_models.sd15()
    at_once = tiny_models.stock_sample(pack_nodes.with_caches(model, techniques))
    one_by_one = companions.row_by_row({"model": model})["model"]
    assert largest_difference(at_once, tiny_models.stock_sample(pack_nodes.with_caches(one_by_one, techniques))) < 1e-5


def test_tiles_in_one_batch_are_computed_in_the_step_in_which_guidance_stops():
    """They are other rows then: what was kept for all of them is nobody's."""
    last, model = 5 / 6, tiny_models.sd15()
    latents = []
    for companion, deep_end in ((companions.tiles_in_one_batch, 1.0), (companions.tiled_diffusion, last)):
        techniques = Techniques(interval=2, deep_end=deep_end, cutoff_start=last)
        patched = pack_nodes.with_caches(companion({"model": model})["model"], techniques)
        latent = tiny_models.latent(model, 16, 32)
        latents.append(tiny_models.stock_sample(patched, latent_image=latent, steps=STEPS))
    assert largest_difference(*latents) < 1e-5
