"""What the documents say is there, and what they quote was measured."""

import json
import re
from pathlib import Path

import pytest

import pack

RESULTS = pack.ROOT / "benchmarks" / "results"
README = (pack.ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [
    pack.ROOT / "README.md",
    pack.ROOT / "CHANGELOG.md",
    *sorted((pack.ROOT / "docs").glob("*.md")),
    *sorted((pack.ROOT / "embedded_model").rglob("*.md")),
    *sorted(RESULTS.glob("*.md")),
    *sorted((pack.ROOT / "web" / "docs").rglob("*.md")),
]
IN_FRONTIER = {  # README's name: the setting's in quality-frontier.json
    "full run, 20 steps": "full",
    "shipped preset": "shipped preset",
    "preset with the paper's deep cache": "matched, m 0.75",
    "preset with the paper's deep cache and switch": "m 0.75",
    "8 steps": "8 steps",
    "6 steps": "6 steps",
}
FAMILIES = {"SD1.5": "sd15", "LCM": "lcm", "SDXL": "sdxl", "PixArt-alpha": "pixart_alpha"}


def anchors(document: Path) -> set[str]:
    """As GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(pack.ROOT).as_posix())
def test_every_relative_link_leads_somewhere(document):
    text = document.read_text(encoding="utf-8")
    for link in (*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'src="([^"]+)"', text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def rows_of(title: str) -> list[list[str]]:
    """The cells of the README's table with this in its heading."""
    assert title in README
    _, _, rest = README.partition(title)
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def in_words(found: dict[str, float], factor: float = 1, form: str = ".2f") -> str:
    value, low, high = (format(factor * found[each], form) for each in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def test_the_readmes_figures_of_pictures_are_those_measured():
    measured = {row["name"]: row for row in json.loads((RESULTS / "quality-frontier.json").read_text())["rows"]}
    rows = rows_of("| | times less work | right |")
    assert {name for name, *_ in rows} == IN_FRONTIER.keys()
    for name, work, right, change, detail in rows:
        found = measured[IN_FRONTIER[name]]
        assert float(work) == pytest.approx(1 / found["work"], abs=0.005), name
        assert right == in_words(found["right"])
        assert float(detail) == pytest.approx(found["detail"]["value"] / measured["full"]["detail"]["value"], abs=0.005)
        assert change == ("" if name.startswith("full") else in_words(found["right_difference"], 100, "+.1f"))


def test_the_readmes_speeds_are_those_measured():
    for model, run, rounds, speedup, arithmetic in rows_of("| model | pixels, steps | rounds |"):
        pixels, steps = run.split(", ")
        found = json.loads((RESULTS / f"speed-{FAMILIES[model]}-{pixels}px-cpu.json").read_text())
        everything = next(row for row in found["rows"] if row["name"] == "all")
        assert (found["steps"], found["repeats"]) == (int(steps), int(rounds)), model
        assert speedup == f"{everything['speedup']:.2f}x"
        assert arithmetic == f"{everything['arithmetic']:.2f}x"


def test_every_table_of_the_embedded_models_pictures_is_of_the_shipped_weights():
    shipped = (pack.ROOT / "embedded_model" / "postdiff_emoji.sha256").read_text().split()[0]
    files = [*RESULTS.glob("quality-*.json"), *RESULTS.glob("*-embedded-*.json")]
    assert len(files) > 10
    assert [file.name for file in files if json.loads(file.read_text())["weights"] != shipped] == []
