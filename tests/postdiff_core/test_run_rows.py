"""Rows of a model call that another node lays out its own way. Apart from test_run.py, which older hosts run too."""

import pytest

import companions
import pack_nodes
import tiny_models
from compare import largest_difference
from postdiff.postdiff_core.branches import Branches
from reference import Techniques

STEPS = 6


@pytest.mark.parametrize("companion", [companions.tiles_in_one_batch, companions.row_by_row])
def test_rows_that_another_node_lays_out_its_own_way_are_told_apart_as_a_whole_only(companion, monkeypatch):
    model, given, rows_of = companion({"model": tiny_models.sd15()})["model"], [], Branches.rows

    def look(branches, x, options):
        given.append((x.shape[0], rows_of(branches, x, options)))
        return given[-1][1]

    monkeypatch.setattr(Branches, "rows", look)
    patched = pack_nodes.with_caches(model, Techniques(interval=2))
    tiny_models.stock_sample(patched, latent_image=tiny_models.latent(model, 16, 32), steps=STEPS)
    assert given
    for number, rows in given:
        (row,) = rows
        assert row.role is None and not row.paired and row.span == slice(0, number)


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
