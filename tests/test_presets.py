"""The paper's presets: complete data, what is installed, and tables that cannot be taken for ours."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

import fastadasp
from fastadasp import RunError, Strategy, UnknownNameError, hookimpl
from fastadasp.experiments import presets
from fastadasp.experiments.axes import expand
from fastadasp.experiments.combinations import recipes
from fastadasp.experiments.comparison import comparison
from fastadasp.strategy import Registry

PAPER = Path(__file__).parents[1] / "fastadasp" / "experiments" / "paper.toml"
DENSE = ("H2O", "random merge", "random evict", "A-ToMe", "FastV", "FastAdaSP decay", "FastAdaSP constant")
SPARSE = (*DENSE[:5], "FastAdaSP sparse")


class _Recipes:
    """A stand-in for recipes that other packages may bring."""

    def __init__(self, *names: str) -> None:
        self.recipes = [fastadasp.load_strategy("prune").replace(name=name) for name in names]

    @hookimpl
    def fastadasp_strategies(self) -> list[Strategy]:
        return self.recipes


def test_presets_of_the_field_take_what_is_installed() -> None:
    """Each strategy in the table of what it saves, none in both; two stages save both and are in neither."""
    flops, cache = (presets.wanted(name) for name in ("field-flops", "field-kv"))
    every = {name: fastadasp.load_strategy(name) for name in expand(["all"])}
    assert {*flops.strategies, *cache.strategies} == {name for name, recipe in every.items() if recipe.then is None}
    assert not {*flops.strategies} & {*cache.strategies}
    assert all(every[name].site == "cache" for name in cache.strategies)
    assert (flops.budgets[0], cache.budgets[-1]) == ("flops=0.1", "kv=0.5")
    assert presets.paper_tables("field-kv") == []
    assert presets.paper_markdown("field-kv") == ""
    said: list[str] = []
    presets.say_names("field-kv", cache, said.append)
    assert said == [f"preset field-kv runs {len(cache.strategies)} strategies: {', '.join(cache.strategies)}"]
    with (
        Registry(discover=False).in_use(),
        pytest.raises(RunError, match="no strategy of the sites cache is installed"),
    ):
        presets.wanted("field-kv")


@pytest.mark.parametrize(
    ("name", "tasks", "methods"), [("paper-dense", ["asr", "st"], DENSE), ("paper-sparse", ["er", "sqa"], SPARSE)]
)
def test_the_papers_tables_are_complete(name: str, tasks: list[str], methods: tuple[str, ...]) -> None:
    paper = presets.read_paper()
    preset = paper.presets[name]
    assert paper.fractions == (0.1, 0.2, 0.3, 0.4, 0.5)
    assert "2410.03007" in paper.source
    assert list(preset.tasks) == list(preset.full) == tasks
    assert tuple(method.title for method in preset.methods) == methods
    for method in preset.methods:
        assert list(method.figures) == tasks
        assert all(len(figures) == 5 for figures in method.figures.values())
        assert method.budget == ("kv" if method.title == "H2O" else "flops")
    assert {task: fastadasp.get_registry().get("task", task).metric for task in tasks} == {
        task: metric.lower() for task, metric in preset.tasks.items()
    }


def test_figures_of_the_papers_tables() -> None:
    """Spot checks against paper.md, sections 3 and 4."""
    dense, sparse = (presets.read_paper().presets[name] for name in ("paper-dense", "paper-sparse"))
    figures = {method.title: method.figures for preset in (dense, sparse) for method in preset.methods}
    assert (dense.full, sparse.full) == ({"asr": 2.25, "st": 21.56}, {"er": 72.80, "sqa": 67.60})
    assert figures["FastAdaSP constant"] == {
        "asr": (2.27, 2.49, 2.48, 2.96, 4.73),
        "st": (21.47, 20.72, 19.81, 18.54, 17.45),
    }
    assert figures["FastAdaSP sparse"]["sqa"] == (67.65, 68.05, 67.45, 68.45, 68.70)
    assert figures["H2O"]["er"][2] == 73.73
    assert dense.methods[4].figures["asr"][4] == 185.79


def test_a_plan_takes_what_is_installed() -> None:
    registry = Registry(discover=False)
    registry.register(_Recipes("random", "h2o", "fastadasp-dense"))
    with registry.in_use():
        plan = presets.wanted("paper-dense")
    assert plan.strategies == ["h2o", "random", "fastadasp-dense"]
    assert plan.tasks == ["asr", "st"]
    assert plan.budgets == [f"flops={x}" for x in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert plan.budgets_of == {"h2o": [f"kv={x}" for x in (0.1, 0.2, 0.3, 0.4, 0.5)]}
    assert plan.left_out == [
        "random evict (random-prune)",
        "A-ToMe (a-tome)",
        "FastV (prune or attention-prune)",
        "FastAdaSP decay (fastadasp-decay)",
    ]
    registry.register(_Recipes("random-merge"), "more")
    with registry.in_use():
        assert presets.wanted("paper-dense").strategies[1] == "random-merge"


def test_presets_that_cannot_be_had() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown preset 'paper-dens'\. Did you mean 'paper-dense'"):
        presets.wanted("paper-dens")
    with Registry(discover=False).in_use(), pytest.raises(RunError, match="none of its methods is installed: H2O"):
        presets.wanted("paper-sparse")


def test_arguments_take_the_place_of_the_plans_own() -> None:
    plan = presets.Wanted(["a"], ["asr"], ["flops=0.1"], {"a": ["kv=0.1"]}, ["B (b)"])
    plan.change(None, ["er"], None)
    assert (plan.strategies, plan.tasks, plan.left_out) == (["a"], ["er"], ["B (b)"])
    plan.change(["c"], None, ["0.5"])
    assert (plan.strategies, plan.tasks, plan.budgets) == (["c"], ["er"], ["0.5"])
    assert (plan.budgets_of, plan.left_out) == ({}, [])


def test_strategies_may_have_budgets_of_their_own() -> None:
    spec = comparison(["weighted", "prune"], ["flops=0.1", "0.2"], ["er"], budgets_of={"prune": ["kv=0.1", "0.3"]})
    assert [(recipe.name, str(recipe.budget)) for _, recipe in recipes(spec)[0]] == [
        ("weighted", "flops=0.1"),
        ("weighted", "flops=0.2"),
        ("prune", "kv=0.1"),
        ("prune", "kv=0.3"),
    ]


@pytest.mark.parametrize("name", ["paper-dense", "paper-sparse"])
def test_the_papers_figures_are_marked_as_the_papers(name: str) -> None:
    from rich.console import Console

    console = Console(width=120, file=io.StringIO())
    for table in presets.paper_tables(name):
        console.print(table)
    shown, page = console.file.getvalue(), presets.paper_markdown(name)
    for task in presets.find_preset(name).tasks:
        for text in (" ".join(shown.split()), page):
            assert f"{task}: the paper's figures for WavLLM, not ours" in text
            assert "arXiv 2410.03007" in text
    assert "…" not in shown
    rows = [line for line in page.splitlines() if line.startswith("|") and "---" not in line]
    assert {row.count("|") for row in rows} == {9}


def test_sa_map_is_as_published() -> None:
    """Spot checks against the branch's README, and that each budget removed is what a table says is kept."""
    preset = presets.find_preset("sa-map")
    assert isinstance(preset, presets.Publication)
    tables = {table.model: table for table in preset.tables}
    assert list(tables) == [
        "Qwen2-Audio-7B",
        "Kimi-Audio",
        "GLM-ASR-Nano",
        "Qwen2-Audio-7B, understanding",
        "Kimi-Audio, understanding",
    ]
    qwen = tables["Qwen2-Audio-7B"]
    assert (qwen.kept, qwen.columns[-1], qwen.full) == (0.6, "mean of 10", (1.74, 4.03, 5.20, 1.52, 7.64, 4.06))
    assert qwen.figures["SA-MAP"] == (2.72, 5.02, 5.94, 2.69, 10.11, 5.39)
    assert qwen.figures["VisionZip"][4] == 23.75
    assert qwen.figures["FastAdaSP"][0] == 4.95
    assert tables["Kimi-Audio"].figures == {"A-ToMe": (7.22,), "FastAdaSP": (6.81,), "SA-MAP": (5.27,)}
    assert (tables["GLM-ASR-Nano"].kept, tables["GLM-ASR-Nano"].figures["FastAdaSP"]) == (0.7, (8.84,))
    assert tables["Kimi-Audio, understanding"].figures["SA-MAP"] == (73.23,)
    plan = presets.wanted("sa-map")
    assert plan.fixed == {"positions": "compact"}
    assert plan.budgets == ["tokens=0.4", "tokens=0.5"]
    assert plan.strategies == [
        "visionzip-encoder",
        "vispruner",
        "cdpruner",
        "a-tome-disjoint",
        "weighted",
        "sa-map-encoder",
    ]
    assert plan.left_out == []
    spec = comparison(plan.strategies, plan.budgets, plan.tasks, overrides=plan.fixed)
    assert {recipe.positions for _, recipe in recipes(spec)[0]} == {"compact"}


def test_published_figures_are_told_from_ours() -> None:
    page = presets.paper_markdown("sa-map")
    for model in ("Qwen2-Audio-7B", "Kimi-Audio", "GLM-ASR-Nano"):
        assert f"published for {model}, not ours: " in page
    assert page.count("Ours above are asr and er of the model and the clips of this run, which are others") == 5
    assert page.count("(Tencent/AngelSlim, branch SA-MAP, SA-MAP/README.md, read in November 2026)") == 5
    assert "| SA-MAP | sa-map-encoder | 2.72 | 5.02 | 5.94 | 2.69 | 10.11 | 5.39 |" in page
    assert "| VisPruner | vispruner | 7.20 |" in page
    with Registry(discover=False).in_use():
        assert "| SA-MAP | not installed | 2.72 |" in presets.paper_markdown("sa-map")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"figures": {"Other": (1.0,)}}, "no method is called Other"), ({"full": (1.0, 2.0)}, "a figure for each of 1")],
)
def test_published_tables_are_complete(change: dict[str, Any], message: str) -> None:
    preset = presets.find_preset("sa-map").model_dump()
    preset["tables"] = [{**preset["tables"][1], **change}]
    with pytest.raises(ValueError, match=message):
        presets.Publication.model_validate(preset)


def test_the_data_name_their_source_and_travel_with_the_package() -> None:
    assert json.dumps(presets.read_paper().model_dump())  # plain values
    assert "EMNLP 2024" in PAPER.read_text(encoding="utf-8")
    assert '"fastadasp.experiments" = ["*.toml"]' in (PAPER.parents[2] / "pyproject.toml").read_text(encoding="utf-8")
