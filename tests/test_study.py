"""The parts of a study: cells and their hashes, and its page. No model runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from study_cases import FACTS, USUAL

import fastadasp
from fastadasp.contracts.task import Example
from fastadasp.experiments.combinations import make_grid, recipes
from fastadasp.experiments.identity import cell_hash, cell_identity, hash_examples, task_facts
from fastadasp.experiments.records import Result
from fastadasp.experiments.spec import Spec, StudyFile, make_spec
from fastadasp.recipes import sources
from fastadasp.tasks.manifest import ManifestTask

DOCS = Path(__file__).parent.parent / "docs" / "studies.md"


def spec(**content: Any) -> Spec:
    return make_spec(content, USUAL)


def plan(**content: Any) -> Any:
    return make_grid(spec(**content), FACTS)


# Cells


def test_the_grid_is_every_combination_with_the_full_model() -> None:
    made = plan(axes={"merger": ["runs", "pairs"], "layers": [1, 4], "budgets": ["0.3", "flops=0.2"]})
    assert len(made.points) == 1 + 2 * 2 * 2
    assert made.points[0].row.strategy is None
    one = next(p for p in made.points if p.labels.get("layers") == "4" and p.axes["merger"] == "pairs")
    assert (one.row.strategy.merger.name, one.row.strategy.layers.start_layer(10)) == ("pairs", 4)
    assert (one.row.name, one.labels["budgets"]) == ("weighted", "0.3")
    assert len({p.cell for p in made.points}) == 9


def test_only_what_draws_gets_several_seeds() -> None:
    made = plan(axes={"select": ["key-similarity", "random"], "seeds": [3, 4]})
    assert [(p.axes.get("select"), p.row.seed) for p in made.points] == [
        (None, 0), ("key-similarity", 0), ("random", 3), ("random", 4)
    ]  # fmt: skip
    assert [p.row.strategy.seed for p in made.points[1:]] == [0, 3, 4]


def test_refusals_are_the_components_own_words() -> None:
    made = plan(axes={"merger": ["runs", "drop"], "layers": [1, 99]})
    reasons = {refused.reason for refused in made.refused}
    assert len(made.points) == 2
    assert any("merger 'drop' reads importance, but scorer 'key-similarity' gives affinity" in r for r in reasons)
    assert "start layer 99 does not exist: the model has layers 0 to 9" in reasons


def test_cells_of_equal_content_run_once() -> None:
    made = plan(axes={"merger": ["pairs", {"name": "pairs", "overlap": "fill"}]})
    assert len(made.points) == 2
    assert [refused.reason for refused in made.refused] == ["is the same as weighted merger=pairs budgets=0.5"]


def test_a_component_that_the_recipe_has_keeps_its_parameters(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    base = fastadasp.load_strategy("a-tome").replace(merger={"name": "pairs", "overlap": "skip"})
    recipe.write_text(base.to_toml())
    made, _, _ = recipes(spec(axes={"strategies": [str(recipe)], "merger": ["pairs", "runs"]}))
    assert made[0][1].merger.parameters() == {"overlap": "skip"}
    assert made[1][1].merger.name == "runs"


def test_cells_are_left_out_by_rules() -> None:
    axes = {"merger": ["runs", "pairs"], "schedule": ["constant", "decay"], "budgets": [0.3, 0.5]}
    everything = plan(axes=axes)
    made = plan(axes=axes, leave_out=[{"merger": "runs", "budgets": 0.3}, {"schedule": ["decay"], "tasks": "er"}])
    assert (len(everything.points), len(made.points), made.left_out) == (9, 1 + 3, 5)
    assert all(p.axes.get("schedule") != "decay" for p in made.points)


def test_the_whole_grid() -> None:
    """All components of every kind, with the reason for each that does not fit."""
    made = plan(full=True, axes={"layers": [1], "schedule": ["decay"], "positions": ["original"], "site": ["block"]})
    names = {kind: [e.name for e in fastadasp.get_registry().entries(kind)] for kind in ("scorer", "merger")}
    tried = len(names["scorer"]) * (len(names["scorer"]) + 1) * len(names["merger"])
    assert len(made.points) - 1 + len(made.refused) == tried
    assert all(refused.reason for refused in made.refused)
    assert {"merger", "select"} <= {word for r in made.refused for word in re.findall(r"\w+", r.reason)}


def test_a_cells_hash_tells_all_that_decides_it_and_nothing_else() -> None:
    strategy = fastadasp.load_strategy("weighted")

    def cell(recipe: Any = strategy, **changes: Any) -> str:
        return cell_hash(cell_identity(recipe, "er", {**FACTS, **changes}))

    assert cell() == cell(strategy.replace(name="other", summary="x", source="y")) == cell(layers=12)
    task = FACTS["tasks"]["er"]
    others = [
        cell(None), cell(strategy.replace(seed=1)), cell(strategy.with_budget(0.4)),
        cell(strategy.replace(layers={"layer": 2})),
        *(cell(**{key: "other"}) for key in ("format", "model", "family", "device", "dtype", "batch_size", "kernels")),
        cell(versions={"fastadasp": "0.2.0"}), cell(code="other"),
        *(cell(tasks={"er": task | {key: "other"}}) for key in ("metric", "max_new_tokens", "data")),
    ]  # fmt: skip
    assert len({cell(), *others}) == len(others) + 1
    calibrated = strategy.replace(layers="transfer-entropy")
    assert cell(tasks={"er": task | {"calibration": "other"}}) == cell()
    assert cell(calibrated, tasks={"er": task | {"calibration": "other"}}) != cell(calibrated)


def test_a_cells_hash_knows_the_plugins_source(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cell_identity(fastadasp.load_strategy("weighted"), "er", FACTS)
    monkeypatch.setattr(sources, "source_hash", lambda module: f"edited {module}")
    after = cell_identity(fastadasp.load_strategy("weighted"), "er", FACTS)
    assert f"fastadasp {fastadasp.__version__} fastadasp_plugins.runs" in before["components"]["merger"]
    assert {part for part in before["components"] if before["components"][part] != after["components"][part]} == {
        "select", "weight", "merger", "schedule", "layers"
    }  # fmt: skip


def test_data_is_hashed_by_content(tmp_path: Path) -> None:
    def examples(folder: str, sound: bytes = b"sound", reference: str = "ja") -> list[Example]:
        path = tmp_path / folder / "clip.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(sound)
        return [Example("one", path, "What?", reference, {"speaker": folder})]

    assert hash_examples(examples("a")) == hash_examples(examples("b"))
    assert len({hash_examples(examples("a", *change)) for change in ((), (b"noise",), (b"sound", "nein"))}) == 3


def test_what_scores_are_grouped_by_is_hashed(tmp_path: Path) -> None:
    def facts(rows: str, **changes: Any) -> dict[str, Any]:
        (tmp_path / "rows.csv").write_text(f"audio,text,gender,note\nclip.wav,ja,{rows}\n", encoding="utf-8")
        options: dict[str, Any] = {"kind": "dense", "metric": "wer", "instruction": "Write.", **changes}
        task = ManifestTask("mine", tmp_path / "rows.csv", **options)
        return task_facts(task, task.examples(), ())

    (tmp_path / "clip.wav").write_bytes(b"sound")
    plain, grouped = facts("f,a"), facts("f,a", groups=["gender"])
    assert "groups" not in plain
    assert plain == facts("m,b")  # tags that no score uses decide nothing
    assert grouped == facts("f,b", groups=["gender"]) != plain
    assert grouped["data"] != facts("m,a", groups=["gender"])["data"]
    assert facts("f,a", unit="gender")["data"] != facts("m,a", unit="gender")["data"]


# Documentation


def test_every_key_is_documented() -> None:
    text = DOCS.read_text(encoding="utf-8")
    records = (StudyFile, Result)
    for model in records:
        for name, field in model.model_fields.items():
            assert f"| `{name}` | {field.description} |" in text, f"docs/studies.md lacks {model.__name__}.{name}"
    documented = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert documented <= {name for model in records for name in model.model_fields}


def test_the_example_of_the_documentation_is_a_study() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    made = make_spec(tomllib.loads(block), USUAL)
    found, refused, left_out = recipes(made)
    assert {recipe.positions for _, recipe in found} == {"compact"}
    assert (made.baseline, left_out > 0, len(refused) > 0) == ({"merger": "runs"}, True, False)
