"""The comparison on the embedded model: files, records, sharing of the encoder, failures."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import fastadasp
from fastadasp import RunError, Scorer, hookimpl
from fastadasp.demo import model_path
from fastadasp.experiments.axes import read_tasks
from fastadasp.experiments.combinations import recipes
from fastadasp.experiments.comparison import comparison
from fastadasp.experiments.records import (
    TIMES,
    Cell,
    Choice,
    Efficiency,
    Prediction,
    RefusedCell,
    Run,
    Standing,
    StartLayer,
    TaskFacts,
    Times,
    Worst,
)
from fastadasp.experiments.spec import Spec
from fastadasp.experiments.study import Findings, Options, Study
from fastadasp.inference.clips import batches, encoder_flops, prepare, read_clip
from fastadasp.inference.load import LoadedModel, load_model
from fastadasp.inference.runner import run_cell

DOCS = Path(__file__).parent.parent / "docs" / "results-format.md"


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(str(model_path()), "cpu", "float32")


def spec(**changes: Any) -> Spec:
    """A comparison on few clips; its recipes are made, so that wrong ones are refused here."""
    settings: dict[str, Any] = {"limit": 3, "device": "cpu"} | changes
    strategies = settings.pop("strategies", ["weighted", "prune"])
    made = comparison(strategies, settings.pop("budgets", ["0.5"]), settings.pop("tasks", ["asr"]), **settings)
    recipes(made)
    return made


def clips_of(*tasks: str, limit: int) -> dict[str, list[Any]]:
    return read_tasks(tasks, limit)[1]


@dataclass
class Ran:
    """What a comparison came to: its cells as the folder has them, with their times."""

    status: str
    cells: list[Cell]
    found: Findings

    @property
    def costs(self) -> list[Efficiency | None]:
        return [self.found.finished.results[point.cell].efficiency for point in self.found.finished.points]


def run(tmp_path: Path, name: str = "run", **changes: Any) -> tuple[Ran, Path]:
    folder = tmp_path / name
    how = Options(str(model_path()), folder, command="compare", store=folder / "store")
    found = Study(spec(**changes), how, print).run()
    cells = [Cell.model_validate(line) for line in read_lines(folder / "results.jsonl")]
    return Ran(found.finished.status, cells, found), folder


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_run_writes_what_its_format_says(tmp_path: Path) -> None:
    result, folder = run(tmp_path, strategies=["weighted", "random"], budgets=["0.5", "ratio=0.2"], tasks=["asr", "er"])
    assert result.status == "finished"
    cells = [Cell.model_validate(line) for line in read_lines(folder / "results.jsonl")]
    assert [cell.cell for cell in cells] == [point.cell for point in result.found.finished.points]
    assert [Times.model_validate(line).cell for line in read_lines(folder / "times.jsonl")] == [c.cell for c in cells]
    assert [(c.task, c.strategy, c.budget) for c in cells] == [
        (task, *row)
        for task in ("asr", "er")
        for row in [("full", None), *((s, b) for s in ("weighted", "random") for b in (0.5, "ratio=0.2"))]
    ]
    predictions = [Prediction.model_validate(line) for line in read_lines(folder / "predictions.jsonl")]
    assert len(predictions) == sum(cell.clips for cell in cells) == 30
    stored = Run.model_validate(json.loads((folder / "run.json").read_text()))
    assert (stored.status, stored.tasks) == ("finished", {"asr": 3, "er": 3})
    assert stored.strategies["weighted"]["merger"]["name"] == "runs"
    assert "merger runs" in stored.origins
    for cell, cost in zip(cells, result.costs, strict=True):
        assert cost is not None
        assert cell.efficiency == cost.model_dump(exclude=set(TIMES))
        if cell.strategy == "full":
            assert (cost.audio_tokens_removed, cost.flops_removed, cost.kv_removed) == (0, 0, 0)
        elif cell.budget == 0.5:
            assert cost.audio_tokens_removed == pytest.approx(0.5, abs=0.01)
            assert 0.2 < cost.flops_removed < 0.5


def test_flops_budgets_are_met_and_reported_with_the_encoder(tmp_path: Path) -> None:
    result, folder = run(tmp_path, strategies=["fastadasp-dense"], budgets=["flops=0.3", "0.5", "kv=0.3"], limit=4)
    assert result.status == "finished"
    assert [cell.budget for cell in result.cells] == [None, "flops=0.3", "flops=0.5", "kv=0.3"]
    full, *rest = result.costs
    for cost, name, goal in zip(rest, ("flops", "flops", "kv"), (0.3, 0.5, 0.3), strict=True):
        assert getattr(cost, f"{name}_removed") == pytest.approx(goal, abs=0.002)
        share = full.flops / (full.flops + full.encoder_flops)
        assert full.flops_with_encoder == full.flops + full.encoder_flops
        assert cost.flops_removed_with_encoder == pytest.approx(cost.flops_removed * share)
    words = f"({full.flops / 1e9:.3g} GFLOPs a clip in the full model); in brackets with the encoder's counted too"
    assert f"{words} ({full.flops_with_encoder / 1e9:.3g} GFLOPs)" in (folder / "table.md").read_text()


def test_encoder_flops_are_those_of_its_matrix_products(loaded: LoadedModel) -> None:
    """Two convolutions, the layers' products and attention over the fixed window of 1500 frames, the projector."""
    sizes = loaded.model.config.audio_config
    d, mlp, frames, bins = sizes.d_model, sizes.encoder_ffn_dim, sizes.max_source_positions, sizes.num_mel_bins
    stem = 2 * 2 * frames * bins * 3 * d + 2 * frames * d * 3 * d
    layer = 8 * frames * d * d + 4 * frames * frames * d + 4 * frames * d * mlp
    projector = 2 * (frames // 2) * d * loaded.model.config.text_config.hidden_size
    for example in clips_of("asr", limit=2)["asr"]:
        assert encoder_flops(loaded, example) == stem + sizes.encoder_layers * layer + projector


def test_budgets_out_of_reach_fail_their_cell_before_it_runs(tmp_path: Path) -> None:
    result, _ = run(tmp_path, strategies=["weighted"], budgets=["flops=0.3", "0.9"])
    assert result.status == "failed"
    full, met, failed = result.cells
    assert full.error is met.error is None
    assert failed.error is not None
    assert failed.error.startswith("StrategyError: 3 of 3 clips cannot meet the budget; budget flops=0.9 cannot be met")
    assert "removes 0 to 0." in failed.error
    assert "(clip asr-0" in failed.error


def test_every_key_is_documented() -> None:
    text = DOCS.read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    records = (Cell, Efficiency, Prediction, Run, Choice, StartLayer, TaskFacts, RefusedCell, Standing, Times, Worst)
    keys = {name for model in records for name in model.model_fields}
    assert documented == keys
    for model in records:
        for name, field in model.model_fields.items():
            assert f"| `{name}` | {field.description} |" in text, f"{model.__name__}.{name}"


def test_the_encoder_runs_once_for_each_recording(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTADASP_FEATURES", "0")
    tasks = clips_of("asr", "st", limit=2)
    examples = [*tasks["asr"], *tasks["st"]]
    assert len({e.audio for e in examples}) == 2
    rows: list[int] = []
    handle = loaded.model.model.audio_tower.register_forward_hook(lambda m, a, out: rows.append(len(out[0])))
    try:
        ready = prepare(loaded, examples, 4, lambda n: None)
    finally:
        handle.remove()
    assert sum(rows) == 2
    assert len(ready) == 4


@torch.inference_mode()
def test_shared_embeddings_give_the_models_own_answers(loaded: LoadedModel) -> None:
    examples = clips_of("st", limit=3)["st"]
    ready = prepare(loaded, examples, 2, lambda n: None)
    clips = [ready[str(e.audio), e.instruction] for e in examples]
    outcome = run_cell(loaded, None, clips, max_new_tokens=48, batch_size=3, progress=lambda n: None)
    for example, answer in zip(examples, outcome.predictions, strict=True):
        message = {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": example.instruction}]}
        inputs = loaded.processor(
            text=[loaded.processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)],
            audio=[read_clip(example, loaded)],
            sampling_rate=16000,
            return_tensors="pt",
        )
        tokens = loaded.model.generate(**inputs, max_new_tokens=48, do_sample=False)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        assert loaded.processor.batch_decode(new, skip_special_tokens=True)[0].strip() == answer


def test_batches_are_padded_on_the_left(loaded: LoadedModel) -> None:
    examples = clips_of("asr", limit=3)["asr"]
    ready = prepare(loaded, examples, 3, lambda n: None)
    clips = [ready[str(e.audio), e.instruction] for e in examples]
    (batch,) = batches(clips, 3, "cpu")
    for row, place in enumerate(batch.places):
        clip = clips[place]
        assert int(batch.mask[row].sum()) == clip.tokens
        assert torch.equal(batch.embeds[row, -clip.tokens :], clip.embeds)
        assert torch.equal(batch.span_ids[row, -clip.tokens :], clip.span_ids)


class _Breaks(Scorer):
    name = "breaks"
    gives = ("importance",)

    def importance(self, layer: Any) -> Any:
        raise RuntimeError("this scorer breaks")


class _Plugin:
    @hookimpl
    def fastadasp_scorers(self) -> list[type[Scorer]]:
        return [_Breaks]


def test_a_failing_cell_does_not_stop_the_others(tmp_path: Path) -> None:
    registry = fastadasp.get_registry()
    name = registry.register(_Plugin())
    try:
        recipe = tmp_path / "breaks.toml"
        text = fastadasp.load_strategy("prune").replace(select="breaks").to_toml().replace('"prune"', '"breaks"', 1)
        recipe.write_text(text)
        result, folder = run(tmp_path, strategies=[str(recipe), "prune"])
    finally:
        registry.unregister(name)
    assert result.status == "failed"
    errors = {cell.strategy: cell.error for cell in result.cells}
    assert errors["breaks"] == "RuntimeError: this scorer breaks"
    assert errors["full"] is errors["prune"] is None
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
    assert "failed" in (folder / "table.md").read_text()


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastadasp.inference import runner

    calls = []
    real = runner.run_cell

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(runner, "run_cell", interrupted)
    result, folder = run(tmp_path)
    assert result.status == "cancelled"
    assert [line["strategy"] for line in read_lines(folder / "results.jsonl")] == ["full"]
    assert json.loads((folder / "run.json").read_text())["status"] == "cancelled"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_another_run_is_never_overwritten(tmp_path: Path) -> None:
    _, folder = run(tmp_path)
    before = contents(folder)
    with pytest.raises(RunError, match=r"already holds a run of other arguments \(changed: limit\)"):
        run(tmp_path, limit=2)
    assert contents(folder) == before


def test_the_same_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second time nothing runs, and the files are those of the first; another baseline needs no cell, either."""
    from fastadasp.inference import runner

    first, folder = run(tmp_path)
    before = contents(folder)
    monkeypatch.setattr(runner, "run_cell", None)
    again, _ = run(tmp_path)
    after = contents(folder)
    assert again.cells == first.cells
    assert {name for name in before if before[name] != after[name]} <= {"run.json"}
    other, _ = run(tmp_path, baseline="prune")
    entries = other.found.tables[0][1]
    assert [entry.standing.baseline for entry in entries] == [None, "prune budgets=0.5", None]


def test_two_strategies_of_one_name_are_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(fastadasp.load_strategy("weighted").to_toml())
    with pytest.raises(RunError, match="both called 'weighted'"):
        spec(strategies=["weighted", str(recipe)])


def write_clips(folder: Path, **sounds: Any) -> Path:
    rows = []
    for name, wave in sounds.items():
        soundfile.write(folder / f"{name}.flac", np.asarray(wave, np.float32), 16000)
        rows.append(json.dumps({"audio_filepath": f"{name}.flac", "reference": "one", "id": name}))
    path = folder / "clips.jsonl"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_short_and_silent_clips_run(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal(16000) * 0.1
    clips = write_clips(tmp_path, silent=np.zeros(16000), short=noise[:800], usual=noise)
    result, folder = run(tmp_path, tasks=[f"asr={clips}"], budgets=["0.5", "0.9"], limit=None)
    assert result.status == "finished"
    assert all(cell.clips == 3 for cell in result.cells)
    assert {line["id"] for line in read_lines(folder / "predictions.jsonl")} == {"silent", "short", "usual"}


def test_random_strategies_repeat_with_their_seed(tmp_path: Path) -> None:
    answers = []
    for place, seed in enumerate((1, 1, 2)):
        _, folder = run(tmp_path, str(place), strategies=["random"], budgets=["0.7"], seed=seed, limit=6, tasks=["asr"])
        answers.append([x["prediction"] for x in read_lines(folder / "predictions.jsonl") if x["strategy"] == "random"])
    assert answers[0] == answers[1]
    assert answers[0] != answers[2]


def test_what_saves_prefill_and_what_saves_cache_never_share_a_table(tmp_path: Path) -> None:
    """Each has the full model's line, and its own correction and ranks."""
    result, folder = run(tmp_path, strategies=["weighted", "h2o"], budgets=["flops=0.2"], limit=3)
    tables = result.found.tables
    assert [heading.part for heading, _ in tables] == [
        "strategies that shorten the sequence",
        "strategies that evict keys and values alone",
    ]
    names = [[entry.standing.strategy for entry in lines] for _, lines in tables]
    assert names == [["full", "weighted"], ["full", "h2o"]]
    assert [lines[1].standing.rank for _, lines in tables] == [1, 1]
    for _, lines in tables:
        assert lines[1].standing.p_holm == lines[1].standing.p
    page = (folder / "table.md").read_text()
    assert page.count("| full | - |") == 2
    first, second = page.split("strategies that evict keys and values alone)")
    assert "| h2o |" not in first
    assert "| weighted |" not in second
    alone, _ = run(tmp_path, "one", strategies=["h2o"], budgets=["kv=0.2"], limit=3)
    assert [heading.part for heading, _ in alone.found.tables] == [""]


def test_bytes_are_those_of_the_cache_at_the_end_of_the_answers(loaded: LoadedModel, tmp_path: Path) -> None:
    """Evicting once, the answer makes the cache larger than its budget; evicting again, it does not."""
    removed: list[float] = []
    for every in (None, 2):
        overrides = {"evicts": "any"} | ({} if every is None else {"every": every})
        changes = {"strategies": ["streaming-llm"], "budgets": ["kv=0.5"], "limit": 2, "overrides": overrides}
        result, _ = run(tmp_path, str(every), **changes)
        full, cost = result.costs
        assert full is not None
        assert cost is not None
        assert full.kv_removed_end == 0
        assert cost.kv_removed == pytest.approx(0.5, abs=0.01)
        assert (full.kv_bytes_end or 0) > full.kv_bytes
        removed.append(cost.kv_removed_end or 0)
    once, again = removed
    assert once < 0.49
    assert again == pytest.approx(0.5, abs=0.005)
