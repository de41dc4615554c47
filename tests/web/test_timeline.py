"""The step timeline in the real canvas, in both render modes, against what postdiff_core plans."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from browser import READY, Canvas, Complaints, Prompt
from playwright.sync_api import BrowserContext

from host import Server
from postdiff.postdiff_core import presets
from postdiff.postdiff_core.schedule import (
    CFGCutoff,
    CrossAttnCache,
    DeepCache,
    MixedResolution,
    Settings,
    plan,
    step_at_uniform_timesteps,
)

fresh = itertools.count(1)
SAMPLER = "5"


def planned(total: int, *techniques: Any) -> list[dict[str, str]]:
    """The steps that postdiff_core plans under uniform timesteps."""
    names = {MixedResolution: "mixed_resolution", DeepCache: "deep_cache", CrossAttnCache: "cross_attn_cache"}
    settings = Settings(**{names.get(type(each), "cfg_cutoff"): each for each in techniques})
    return documents(settings, total)


def documents(settings: Settings, total: int) -> list[dict[str, str]]:
    laid_out = plan(settings, total, lambda fraction: step_at_uniform_timesteps(total, fraction))
    return [step.document() for step in laid_out.steps]


def graph(
    sampler: str = "MixedResolutionKSampler",
    *,
    seconds: float = 0.0,
    fail_at: int = -1,
    smallest: int = 0,
    **inputs: Any,
) -> Prompt:
    """Model -> deep cache -> cross-attention cache -> cut-off -> a sampler."""
    of_sampler = {
        "MixedResolutionKSampler": {"low_res_scale": 0.5, "low_res_until": 0.5, "upscale_method": "bilinear"},
        "PostDiffKSampler": {"preset": "off"},
    }
    sampling = {"seed": 1, "steps": 8, "cfg": 5.0, "sampler_name": "euler", "scheduler": "sgm_uniform", "denoise": 1.0}
    sampling |= {"positive": ["1", 1], "negative": ["1", 1], "latent_image": ["1", 2]}
    model = {"family": "sd15", "seconds_per_step": seconds, "fail_at": fail_at, "smallest": smallest}
    model["fresh"] = next(fresh)
    deep = {"model": ["1", 0], "interval": 2, "depth": 2, "start_percent": 0.0, "end_percent": 1.0}
    return {
        "1": {"class_type": "PostDiffTestModel", "inputs": model},
        "2": {"class_type": "DeepCachePatch", "inputs": deep},
        "3": {
            "class_type": "CrossAttnCachePatch",
            "inputs": {"model": ["2", 0], "start_percent": 0.62, "mode": "cond"},
        },
        "4": {"class_type": "CFGCutoff", "inputs": {"model": ["3", 0], "start_percent": 0.75}},
        SAMPLER: {
            "class_type": sampler,
            "inputs": {"model": ["4", 0], **sampling, **of_sampler.get(sampler, {}), **inputs},
        },
        "6": {"class_type": "PreviewAny", "inputs": {"source": [SAMPLER, 0]}},
    }


def send(canvas: Canvas, event: str, node: str, prompt: str = "another", **content: Any) -> None:
    """What the server would tell the page."""
    detail = {"node": node, "sampler_node": SAMPLER, "prompt_id": prompt, **content}
    canvas.js("([type, detail]) => app.api.dispatchEvent(new CustomEvent(type, { detail }))", [event, detail])


PATCHES = (DeepCache(2, 2), CrossAttnCache(0.62), CFGCutoff(0.75))
WHOLE_PLAN = planned(8, MixedResolution(0.5, 0.5), *PATCHES)


def test_a_sampler_and_the_patches_before_it_show_the_planned_steps(canvas: Canvas) -> None:
    canvas.load(graph())
    for node in (SAMPLER, "2", "3", "4"):
        canvas.wait_for_steps(node, WHOLE_PLAN)
        canvas.wait_for_text(node, "status", "estimate")
    canvas.load(graph("PostDiffKSampler", preset="sdxl", steps=20, model=["1", 0]))
    canvas.wait_for_steps(SAMPLER, documents(presets.PRESETS["sdxl"], 20))


def test_every_preset_of_the_node_is_drawn_as_python_plans_it(canvas: Canvas) -> None:
    canvas.load(graph("PostDiffKSampler", steps=20, model=["1", 0]))
    for name, settings in presets.PRESETS.items():
        canvas.set(SAMPLER, preset=name)
        canvas.wait_for_steps(SAMPLER, documents(settings, 20))


def test_the_picture_has_a_text_alternative(canvas: Canvas) -> None:
    canvas.load(graph())
    canvas.show(SAMPLER)
    label = canvas.page.get_by_role("img", name="Estimate: 8 steps").last.get_attribute("aria-label")
    assert label is not None and "low resolution: 1 to 4" in label and "guidance off: 7 to 8" in label


def test_a_value_changed_by_hand_is_followed_and_undone_and_redone(canvas: Canvas) -> None:
    canvas.load(graph())
    canvas.wait_for_steps("2", WHOLE_PLAN)
    more = planned(8, MixedResolution(0.5, 0.5), DeepCache(3, 2), *PATCHES[1:])
    canvas.show("2")
    canvas.click_empty_place()  # what the layout changed becomes an undo step of its own
    canvas.increase("2", "interval")
    canvas.wait_for_steps("2", more)
    canvas.click_empty_place()  # Nodes 2.0 records an undo step only then
    canvas.command("Comfy.Undo")
    canvas.wait_for_steps("2", WHOLE_PLAN)
    assert canvas.call("isShown", "2"), "the living element must be the one on the page"
    canvas.command("Comfy.Redo")
    canvas.wait_for_steps("2", more)
    assert canvas.call("isShown", "2")


def test_a_value_set_by_another_extension_is_followed(canvas: Canvas) -> None:
    canvas.load(graph())
    canvas.js("() => { app.rootGraph.getNodeById(5).widgets.find((w) => w.name === 'steps').value = 12; }")
    canvas.wait_for_steps("4", planned(12, MixedResolution(0.5, 0.5), *PATCHES))


@pytest.mark.parametrize("primitive", ["PrimitiveInt", "PrimitiveNode"])
def test_steps_that_come_through_a_link_are_followed(canvas: Canvas, primitive: str) -> None:
    canvas.load(graph())
    canvas.js(
        """(type) => {
            const primitive = LiteGraph.createNode(type), sampler = app.rootGraph.getNodeById(5);
            app.rootGraph.add(primitive);
            const input = sampler.inputs.findIndex((each) => each.widget?.name === "steps");
            primitive.connect(0, sampler, input);
            primitive.widgets[0].value = 14;
            primitive.widgets[0].callback?.(14);
        }""",
        primitive,
    )
    for node in (SAMPLER, "2"):
        canvas.wait_for_steps(node, planned(14, MixedResolution(0.5, 0.5), *PATCHES))
    assert canvas.prompt()[SAMPLER]["inputs"]["steps"] in (14, [canvas.call("lastNode"), 0])


def test_a_link_taken_away_takes_the_patch_out_of_the_plan(canvas: Canvas) -> None:
    canvas.load(graph())
    canvas.wait_for_steps(SAMPLER, WHOLE_PLAN)
    canvas.js("() => app.rootGraph.getNodeById(5).disconnectInput(0)")
    canvas.wait_for_steps(SAMPLER, planned(8, MixedResolution(0.5, 0.5)))
    canvas.wait_for_text("4", "status", "no sampler found")
    canvas.wait_for_steps("4", planned(20, CFGCutoff(0.75)))


def test_a_bypassed_patch_leaves_the_plan_and_says_so(canvas: Canvas) -> None:
    canvas.load(graph())
    canvas.wait_for_steps(SAMPLER, WHOLE_PLAN)
    canvas.js("() => { app.rootGraph.getNodeById(2).mode = 4; }")
    canvas.wait_for_steps(SAMPLER, planned(8, MixedResolution(0.5, 0.5), *PATCHES[1:]))
    canvas.wait_for_text("2", "status", "Bypassed")
    canvas.js("() => { app.rootGraph.getNodeById(2).mode = 2; }")
    canvas.wait_for_text("2", "status", "Muted")


def test_a_copy_has_a_timeline_of_its_own(canvas: Canvas) -> None:
    canvas.load(graph())
    canvas.wait_for_steps("2", WHOLE_PLAN)
    canvas.call("select", ["2"])
    canvas.js("() => app.canvas.copyToClipboard()")
    canvas.js("() => app.canvas.pasteFromClipboard()")
    copy = canvas.call("lastNode")
    canvas.wait_for_steps(copy, planned(20, DeepCache(2, 2)))
    canvas.set(copy, interval=5)
    canvas.wait_for_steps(copy, planned(20, DeepCache(5, 2)))
    canvas.wait_for_steps("2", WHOLE_PLAN)


def test_it_works_inside_a_subgraph_before_and_during_a_run(canvas: Canvas) -> None:
    canvas.load(graph(seconds=0.05))
    subgraph = canvas.into_subgraph("2", "3", "4")
    canvas.wait_for_steps(SAMPLER, WHOLE_PLAN)
    inner = [f"{subgraph}:{node}" for node in ("2", "3", "4")]
    for node in inner:
        canvas.wait_for_steps(node, WHOLE_PLAN)
    assert canvas.run() == "success"
    for node in (SAMPLER, *inner):
        canvas.wait_for_state(node, "measured")
    canvas.js("(id) => { postdiffTest.node(id).mode = 2; }", subgraph)
    for node in inner:
        canvas.wait_for_text(node, "status", "Inside a node that does not run.")


def test_in_a_subgraph_used_twice_the_later_run_is_shown(canvas: Canvas) -> None:
    canvas.load(graph())
    first = canvas.into_subgraph("2", "3", "4")
    uses = [f"{use}:2" for use in (first, canvas.call("useAgain", first))]
    assert uses[0] != uses[1] and canvas.js("([a, b]) => postdiffTest.node(a) === postdiffTest.node(b)", uses)
    for use, total in ((uses[0], 8), (uses[1], 6), (uses[0], 5)):
        send(canvas, "postdiff.plan", use, plan=planned(total, *PATCHES), scale=1, notes=[])
        canvas.wait_for_steps(uses[0], planned(total, *PATCHES))
        assert canvas.text(uses[0], "badge") == "starting"


def test_a_run_goes_on_as_it_began_when_settings_are_changed_meanwhile(canvas: Canvas) -> None:
    canvas.load(graph())
    canvas.wait_for_steps("4", WHOLE_PLAN)
    send(canvas, "postdiff.plan", "4", plan=WHOLE_PLAN, scale=0.5, notes=[])
    send(canvas, "postdiff.step", "4", step=2)
    canvas.set(SAMPLER, steps=9)
    canvas.wait_for_steps("3", planned(9, MixedResolution(0.5, 0.5), *PATCHES))
    assert canvas.text("4", "status") == "step 3of 8"
    send(canvas, "execution_interrupted", "4")
    canvas.wait_for_steps("4", planned(9, MixedResolution(0.5, 0.5), *PATCHES))


def test_a_patch_before_two_samplers_shows_the_run_of_the_one_it_is_drawn_for(canvas: Canvas) -> None:
    """As a base model and a refiner would have it; the other one's run is shown where it is the only one."""
    canvas.load(graph())
    other = planned(6, *PATCHES)
    send(canvas, "postdiff.plan", "4", sampler_node="77", plan=other, scale=1, notes=[])
    canvas.wait_for_steps("4", other)
    for sampler, steps in ((SAMPLER, WHOLE_PLAN), ("77", other)):
        send(canvas, "postdiff.plan", "4", sampler_node=sampler, plan=steps, scale=1, notes=[])
        canvas.wait_for_steps("4", WHOLE_PLAN)


def test_the_height_of_low_resolution_steps_is_the_runs_own(canvas: Canvas) -> None:
    """Where auto is estimated for a model that the run knows better."""
    canvas.load(graph("PostDiffKSampler", preset="auto"))
    canvas.wait_for_state(SAMPLER, "estimate")
    bar = "(id) => Number(postdiffTest.node(id).widgets.find(({ name }) => name === 'timeline').element"
    bar += ".querySelector('[data-step=\"0\"] rect').getAttribute('height'))"
    heights = []
    for scale in (0.5, 0.75):
        send(canvas, "postdiff.plan", SAMPLER, plan=WHOLE_PLAN, scale=scale, notes=[])
        canvas.wait_for_steps(SAMPLER, WHOLE_PLAN)
        heights.append(canvas.js(bar, SAMPLER))
    assert heights == [16, 24]


def test_an_unchanged_graph_holds_nothing_of_the_timeline(canvas: Canvas) -> None:
    canvas.load(graph())
    canvas.wait_for_steps("2", WHOLE_PLAN)
    assert canvas.prompt()["2"]["inputs"].keys() == {"model", "interval", "depth", "start_percent", "end_percent"}
    node = next(each for each in canvas.workflow()["nodes"] if str(each["id"]) == "2")
    assert node["widgets_values"] == [2, 2, 0, 1]


def test_a_run_marks_its_steps_and_ends_with_its_report(canvas: Canvas) -> None:
    canvas.load(graph(seconds=0.15))
    canvas.call("collectMarks", "4")
    assert canvas.run() == "success"
    marked = canvas.js("() => postdiffTest.marks")
    assert marked == sorted(marked) and len(marked) >= 6, marked
    for node in (SAMPLER, "2", "3", "4"):
        canvas.wait_for_state(node, "measured")
        canvas.wait_for_mark(node, shown=False)
    result = r"[\d.]+ s · [\d.]+. speed-up · .\d+ % work"
    assert re.fullmatch(result, canvas.text(SAMPLER, "status"))
    assert re.fullmatch(f"whole run{result}", canvas.text("4", "status")), "no patch has all the speed-up to itself"
    assert canvas.steps("4") == WHOLE_PLAN
    canvas.set(SAMPLER, seed=2)
    canvas.page.wait_for_timeout(400)  # the graph is read again meanwhile
    canvas.wait_for_state(SAMPLER, "measured")
    canvas.set(SAMPLER, steps=9)
    canvas.wait_for_text("4", "status", "estimate")


def test_a_run_shows_its_own_plan_where_the_estimate_was_off(canvas: Canvas) -> None:
    canvas.load(graph(scheduler="karras", steps=12))
    estimate = planned(12, MixedResolution(0.5, 0.5), *PATCHES)
    canvas.wait_for_steps(SAMPLER, estimate)
    assert canvas.run() == "success"
    canvas.wait_for_state(SAMPLER, "measured")
    shown = canvas.steps(SAMPLER)
    assert len(shown) == 12 and shown != estimate


def test_what_auto_recognised_is_shown_and_drawn_from_then_on(canvas: Canvas) -> None:
    canvas.load(graph("PostDiffKSampler", preset="auto", steps=12, model=["1", 0]))
    canvas.wait_for_text(SAMPLER, "notes", "unknown model")
    assert canvas.run() == "success"
    canvas.wait_for_state(SAMPLER, "measured")
    canvas.wait_for_text(SAMPLER, "status", "auto: sd15")
    canvas.set(SAMPLER, cfg=6.0)
    canvas.wait_for_state(SAMPLER, "estimate")
    canvas.wait_for_text(SAMPLER, "status", "12 steps · auto: sd15")
    assert {step["deep"] for step in canvas.steps(SAMPLER)} == {"refresh", "reuse"}
    canvas.set(SAMPLER, cfg=5.0)
    canvas.wait_for_state(SAMPLER, "measured")
    canvas.set("1", family="sdxl")
    canvas.wait_for_text(SAMPLER, "notes", "unknown model")


def test_a_run_belongs_to_the_workflow_it_began_in(canvas: Canvas) -> None:
    prompt = graph(seconds=1.0)
    canvas.load(prompt)
    tab = canvas.call("tab")
    canvas.call("listenForEnds", 1)
    canvas.queue()
    canvas.wait_for_mark(SAMPLER, shown=True)
    canvas.load(prompt)
    assert canvas.wait_for_end() == "success"
    canvas.wait_for_state(SAMPLER, "estimate")
    canvas.open_tab(tab)
    canvas.wait_for_state(SAMPLER, "measured")


def test_a_prompt_that_waited_belongs_to_the_workflow_it_was_queued_in(canvas: Canvas) -> None:
    canvas.load(graph(seconds=10.0))
    first = canvas.call("tab")
    canvas.queue()
    canvas.wait_for_mark(SAMPLER, shown=True)
    canvas.load(graph(steps=12))
    second = canvas.call("tab")
    canvas.queue()
    canvas.wait_until("async () => (await (await fetch('queue')).json()).queue_pending.length === 1")
    canvas.open_tab(first)  # it is on view when the second prompt begins
    canvas.call("listenForEnds", 2)
    canvas.js("() => app.api.interrupt()")
    assert canvas.wait_for_end() == "success"
    canvas.wait_for_state(SAMPLER, "estimate")
    canvas.wait_for_steps(SAMPLER, WHOLE_PLAN)
    canvas.open_tab(second)
    canvas.wait_for_state(SAMPLER, "measured")
    canvas.wait_for_steps(SAMPLER, planned(12, MixedResolution(0.5, 0.5), *PATCHES))


def test_what_is_changed_while_a_prompt_waits_is_not_shown_as_measured(canvas: Canvas) -> None:
    canvas.load(graph(seconds=10.0))
    canvas.queue()
    canvas.wait_for_mark(SAMPLER, shown=True)
    canvas.load(graph())
    canvas.queue()
    canvas.wait_until("async () => (await (await fetch('queue')).json()).queue_pending.length === 1")
    canvas.set(SAMPLER, steps=12)
    canvas.call("listenForEnds", 2)
    canvas.js("() => app.api.interrupt()")
    assert canvas.wait_for_end() == "success"
    canvas.wait_for_state(SAMPLER, "estimate")
    canvas.wait_for_steps(SAMPLER, planned(12, MixedResolution(0.5, 0.5), *PATCHES))
    canvas.set(SAMPLER, steps=8)
    canvas.wait_for_state(SAMPLER, "measured")


def test_what_was_measured_with_another_patch_is_not_shown_as_measured(canvas: Canvas) -> None:
    """The depth changes what the deep cache costs, and no step of the plan."""
    canvas.load(graph())
    assert canvas.run() == "success"
    for node in (SAMPLER, "2", "4"):
        canvas.wait_for_state(node, "measured")
    canvas.set("2", depth=3)
    for node in (SAMPLER, "2", "4"):
        canvas.wait_for_state(node, "estimate")
    canvas.set("2", depth=2)
    canvas.wait_for_state(SAMPLER, "measured")


def test_the_panel_of_properties_leaves_the_timeline_alone(canvas: Canvas) -> None:
    open_panel = "(open) => app.extensionManager.setting.set('Comfy.RightSidePanel.IsOpen', open)"
    canvas.load(graph())
    canvas.wait_for_steps(SAMPLER, WHOLE_PLAN)
    canvas.js("(id) => { const node = postdiffTest.node(id); node.setSize([600, node.size[1]]); }", SAMPLER)
    canvas.show(SAMPLER)
    before = canvas.box(SAMPLER)
    canvas.call("select", [SAMPLER])
    canvas.js(open_panel, True)
    canvas.page.get_by_text("Parameters", exact=True).wait_for()
    canvas.page.wait_for_timeout(500)  # several times what the canvas takes to draw itself anew
    assert canvas.page.get_by_text("low_res_until", exact=True).count() > 0
    assert canvas.page.get_by_text("timeline", exact=True).count() == 0
    opened = canvas.box(SAMPLER)
    canvas.js(open_panel, False)
    canvas.page.get_by_text("Parameters", exact=True).wait_for(state="hidden")
    canvas.page.wait_for_timeout(500)
    assert opened == canvas.box(SAMPLER) == before


def test_what_takes_the_place_of_the_picture_is_shown_in_full(canvas: Canvas) -> None:
    prompt = graph()
    prompt["2"]["inputs"] |= {"start_percent": 0.6, "end_percent": 0.4}
    canvas.load(prompt)
    canvas.wait_for_text("2", "status", "The deep cache window is empty")
    canvas.show("2")
    shown = "(id) => postdiffTest.node(id).widgets.find(({ name }) => name === 'timeline').element"
    widths = canvas.js(
        f"(id) => {{ const e = ({shown})(id).querySelector('.status span'); return [e.scrollWidth, e.clientWidth]; }}",
        "2",
    )
    assert widths[0] <= widths[1] and widths[1] > 0


def test_a_run_of_which_everything_is_cached_leaves_an_estimate_that_is_called_one(canvas: Canvas) -> None:
    prompt = graph()
    canvas.load(prompt)
    assert canvas.run() == "success"
    canvas.wait_for_state(SAMPLER, "measured")
    canvas.load(prompt)
    assert canvas.run() == "success"
    for node in (SAMPLER, "2", "3", "4"):
        canvas.wait_for_state(node, "estimate")
        canvas.wait_for_steps(node, WHOLE_PLAN)
        assert canvas.text(node, "badge") == "estimate"


def test_notes_of_a_run_are_shown(canvas: Canvas) -> None:
    canvas.load(graph(steps=2))
    assert canvas.run() == "success"
    canvas.wait_for_text(SAMPLER, "notes", "fewer than 3")
    canvas.show(SAMPLER)
    assert canvas.box(SAMPLER, ".legend")["bottom"] <= canvas.box(SAMPLER)["bottom"]


def test_an_interrupt_clears_the_mark(canvas: Canvas) -> None:
    canvas.load(graph(seconds=10.0))
    canvas.call("listenForEnds", 1)
    canvas.queue()
    canvas.wait_for_mark("4", shown=True)
    assert re.fullmatch("step [1-8]of 8", canvas.text("4", "status"))
    canvas.js("() => app.api.interrupt()")
    assert canvas.wait_for_end() == "interrupted"
    canvas.wait_for_mark("4", shown=False)
    canvas.wait_for_text("4", "status", "estimate")


def test_an_error_clears_the_mark(canvas: Canvas) -> None:
    canvas.load(graph(seconds=0.2, fail_at=3))
    assert canvas.run() == "error"
    canvas.wait_for_mark("4", shown=False)
    canvas.wait_for_text("4", "status", "estimate")
    canvas.page.keyboard.press("Escape")  # the host's error dialog


def test_a_run_that_starts_again_at_full_size_shows_its_steps_and_why(canvas: Canvas) -> None:
    canvas.load(graph(smallest=16))
    canvas.wait_for_steps(SAMPLER, WHOLE_PLAN)
    canvas.run()
    canvas.wait_for_steps(SAMPLER, planned(8, *PATCHES))
    canvas.wait_for_text(SAMPLER, "notes", "All steps run at full size: something on the model failed")


@pytest.mark.parametrize("palette", ["dark", "light"])
def test_colours_stand_out_in_both_themes(canvas: Canvas, palette: str) -> None:
    canvas.load(graph())
    canvas.wait_for_steps(SAMPLER, WHOLE_PLAN)
    canvas.show(SAMPLER)
    try:
        canvas.js("name => app.extensionManager.setting.set('Comfy.ColorPalette', name)", palette)
        canvas.page.wait_for_timeout(300)
        for part in ("rect.full", "rect.xattn", "rect.guided"):
            assert canvas.contrast(SAMPLER, part) >= 3, (palette, part)  # WCAG 2.2, 1.4.11
        for part in (".status span", ".legend span"):
            assert canvas.contrast(SAMPLER, part, "color") >= 4.5, (palette, part)
    finally:
        canvas.js("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")


@pytest.mark.parametrize("zoom", [0.4, 1.0, 2.0])
def test_the_timeline_stays_inside_its_node_at_every_zoom(canvas: Canvas, zoom: float) -> None:
    canvas.load(graph())
    canvas.wait_for_steps(SAMPLER, WHOLE_PLAN)
    canvas.show(SAMPLER, zoom)
    node, picture, legend = canvas.node_box(SAMPLER), canvas.box(SAMPLER), canvas.box(SAMPLER, ".legend")
    for inner in (picture, legend):
        assert node["left"] <= inner["left"] and inner["right"] <= node["right"] + 1
        assert node["top"] <= inner["top"] and inner["bottom"] <= node["bottom"] + 1
    assert legend["bottom"] <= picture["bottom"]
    assert picture["right"] - picture["left"] > 0.8 * (node["right"] - node["left"])


def middle(box: dict[str, float]) -> tuple[float, float]:
    return (box["left"] + box["right"]) / 2, (box["top"] + box["bottom"]) / 2


def test_the_wheel_over_a_timeline_zooms_the_canvas_as_beside_it(canvas: Canvas) -> None:
    canvas.load(graph())
    zooms = []
    for place in (canvas.box, canvas.node_box):  # the middle of the node is beside the timeline
        canvas.show(SAMPLER, 1.0)
        canvas.page.mouse.move(*middle(place(SAMPLER)))
        canvas.page.wait_for_timeout(200)
        canvas.page.mouse.wheel(0, -100)
        canvas.wait_until("() => app.canvas.ds.scale > 1.01")
        canvas.page.wait_for_timeout(200)
        zooms.append(canvas.js("() => app.canvas.ds.scale"))
    assert zooms[0] == zooms[1]


def test_a_node_is_selected_dragged_and_deleted_by_its_timeline(canvas: Canvas) -> None:
    canvas.load(graph())
    canvas.show(SAMPLER, 1.0)
    canvas.click_empty_place()
    assert canvas.call("selected") == []
    x, y = middle(canvas.box(SAMPLER))
    canvas.page.mouse.click(x, y)
    canvas.wait_until("() => postdiffTest.selected().join() === '5'")
    canvas.js("() => app.canvas.deselectAll()")  # a second click beside the nodes would be half of a double click
    before = canvas.node_box(SAMPLER)
    canvas.page.mouse.move(x, y)
    canvas.page.mouse.down()
    canvas.page.mouse.move(x + 40, y + 20, steps=4)
    canvas.page.wait_for_timeout(100)  # longer than a click
    canvas.page.mouse.move(x + 80, y - 60, steps=4)
    canvas.page.wait_for_timeout(100)  # Nodes 2.0 moves the node in the next frame
    canvas.page.mouse.up()
    canvas.page.wait_for_timeout(200)
    after = canvas.node_box(SAMPLER)
    moved = after["left"] - before["left"], after["top"] - before["top"]
    assert moved == pytest.approx((80, -60), abs=1)
    assert canvas.call("selected") == [SAMPLER]
    canvas.page.keyboard.press("Delete")
    canvas.wait_until("() => !postdiffTest.node('5')")


def test_a_right_click_on_a_timeline_opens_the_menu_of_its_node_and_no_other(canvas: Canvas) -> None:
    canvas.load(graph())
    canvas.show(SAMPLER, 1.0)
    canvas.call("countBrowserMenus")
    canvas.page.mouse.click(*middle(canvas.box(SAMPLER)), button="right")
    canvas.page.locator(".litecontextmenu, .p-contextmenu, [role=menu]").get_by_text(
        "Bypass", exact=True
    ).first.wait_for()
    assert canvas.call("selected") == [SAMPLER]
    assert canvas.js("() => postdiffTest.browserMenus") == 0
    canvas.page.keyboard.press("Escape")
    canvas.js("() => LiteGraph.closeAllContextMenus(window)")


def test_events_of_a_run_whose_beginning_was_not_seen_are_ignored(canvas: Canvas) -> None:
    canvas.load(graph())
    assert canvas.run() == "success"
    canvas.wait_for_state(SAMPLER, "measured")
    for node in (SAMPLER, "99"):
        send(canvas, "postdiff.step", node, "of another page", step=1)
        send(canvas, "postdiff.report", node, "of another page", report={})
    canvas.page.wait_for_timeout(400)  # the graph is read again meanwhile
    canvas.wait_for_state(SAMPLER, "measured")
    canvas.wait_for_mark(SAMPLER, shown=False)


def test_a_page_loaded_anew_in_a_run_shows_what_came_of_it(canvas: Canvas) -> None:
    prompt = graph(seconds=2.0)
    canvas.load(prompt)
    canvas.queue()
    canvas.wait_for_mark(SAMPLER, shown=True)
    canvas.page.reload(wait_until="domcontentloaded")
    canvas.wait_until(READY, timeout=120_000)
    canvas.load(prompt)
    canvas.wait_for_state(SAMPLER, "estimate")
    for node in (SAMPLER, "4"):
        canvas.wait_for_state(node, "measured")
    canvas.wait_for_steps(SAMPLER, WHOLE_PLAN)


def test_errors_of_the_pack_are_told_from_the_frontends_own(browser: BrowserContext, server: Server) -> None:
    page = browser.new_page()
    try:
        complaints = Complaints(page, server.url)
        page.route(
            "**/extensions/postdiff/timeline.js*",
            lambda route: route.fulfill(content_type="text/javascript", body=BROKEN),
        )
        page.bring_to_front()
        page.goto(server.url, wait_until="domcontentloaded")
        for mark in ("thrown in setup", "thrown late", "logged"):
            while not any(mark in complaint for complaint in complaints.own):
                page.wait_for_timeout(50)  # the test's own time limit ends this
    finally:
        page.close()


BROKEN = """
import { app } from "../../scripts/app.js";
console.error("logged");
setTimeout(() => { throw new Error("thrown late"); }, 0);
app.registerExtension({ name: "postdiff.broken", setup() { throw new Error("thrown in setup"); } });
"""


def test_a_second_tab_is_not_disturbed(browser: BrowserContext, server: Server) -> None:
    here, there = (Canvas.open(browser, server, nodes_2=False) for _ in range(2))
    prompt = graph(seconds=0.05)
    for canvas in (there, here):
        canvas.load(prompt)
        canvas.wait_for_steps(SAMPLER, WHOLE_PLAN)
    assert here.run() == "success"
    here.wait_for_state(SAMPLER, "measured")
    there.page.bring_to_front()
    there.page.wait_for_timeout(1000)
    there.wait_for_state(SAMPLER, "estimate")
    assert here.complaints.all() == there.complaints.all() == []
    for canvas in (here, there):
        canvas.page.close()


def test_the_timeline_speaks_the_language_of_the_canvas(browser: BrowserContext, server: Server) -> None:
    canvas = Canvas.open(browser, server, nodes_2=False)
    canvas.load(graph())
    try:
        for language, words in {
            "zh": "8 \u6b65",
            "ja": "8 \u30b9\u30c6\u30c3\u30d7",
            "fr": "8 steps",
            "en": "8 steps",
        }.items():
            canvas.js("(language) => app.extensionManager.setting.set('Comfy.Locale', language)", language)
            canvas.wait_for_text("4", "status", words)
        assert canvas.complaints.all() == []
    finally:
        canvas.js("() => app.extensionManager.setting.set('Comfy.Locale', 'en')")
        canvas.page.close()
