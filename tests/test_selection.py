"""Layer selection: calibration runs, choices, the cache, comparisons and the command, mostly on a tiny random model."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import AUDIO, LAYERS, Sample, audio_model, batch, embed

import fastadasp
from fastadasp import (
    CalibratedSelector,
    Example,
    LayerChoice,
    LayerSelector,
    LoadedModel,
    PluginError,
    StrategyError,
    hookimpl,
)
from fastadasp.counts.budget import Budget
from fastadasp.demo import model_path
from fastadasp.engine.trace import Trace, follow
from fastadasp.experiments.comparison import comparison
from fastadasp.experiments.study import Options, Study
from fastadasp.experiments.sweep import rank_correlation, sweep
from fastadasp.inference.clips import ReadyClip
from fastadasp.recipes import sources
from fastadasp.selection import select
from fastadasp.selection.cache import cache_folder, read_entry
from fastadasp.selection.calibration import Calibration
from fastadasp.selection.select import at_layer, calibration_examples, select_layer
from fastadasp.tasks.manifest import ManifestTask

pytestmark = pytest.mark.usefixtures("own_cache")

SAMPLES = (Sample((3, 5), (40,), seed=1), Sample((4, 6), (32,), seed=2), Sample((2, 5), (48,), seed=3))


class Deepest(CalibratedSelector):
    """Stands for a stranger's selector: the later, the better."""

    name = "deepest"

    def choose(self, calibration: Calibration) -> LayerChoice:
        return LayerChoice.least({layer: -float(layer) for layer in calibration.candidates}, looked="no")


class Astray(CalibratedSelector):
    name = "astray"

    def choose(self, calibration: Calibration) -> LayerChoice:
        return LayerChoice.least({99: 0.0})


class Unfinished(CalibratedSelector):
    name = "unfinished"


class Strangers:
    @hookimpl
    def fastadasp_layer_selectors(self) -> list[type[LayerSelector]]:
        return [Deepest, Astray]


@pytest.fixture
def strangers() -> Iterator[None]:
    registry = fastadasp.get_registry()
    name = registry.register(Strangers())
    yield
    registry.unregister(name)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return LoadedModel(audio_model(), None, "tiny", "cpu", "float32")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[ReadyClip]:
    """Three prompts as they enter the decoder; their recordings are only files to be hashed."""
    folder = tmp_path_factory.mktemp("clips")
    out = []
    for place, sample in enumerate(SAMPLES):
        path = folder / f"{place}.wav"
        path.write_bytes(bytes([place]))
        inputs = batch(sample)
        with torch.inference_mode():
            embeds, spans = embed(audio_model(), inputs)
        assert int((inputs["input_ids"] == AUDIO).sum()) == sample.clips[0]
        out.append(ReadyClip(Example(f"clip-{place}", path, "say", "x"), embeds[0], spans[0]))
    return out


def ready(clips: list[ReadyClip]) -> dict[tuple[str, str], ReadyClip]:
    return {(str(clip.example.audio), clip.example.instruction): clip for clip in clips}


def recipe(selector: Any = "transfer-entropy", budget: Any = "flops=0.2", name: str = "weighted") -> fastadasp.Strategy:
    return fastadasp.load_strategy(name, layers=selector, budget=budget)


def choose(loaded: LoadedModel, clips: list[ReadyClip], strategy: fastadasp.Strategy, **changes: Any) -> Any:
    told: list[str] = []
    examples = [clip.example for clip in clips]
    made = select_layer(loaded, strategy, examples, ready=ready(clips), max_new_tokens=6, notice=told.append, **changes)
    return made, told


def test_features_match_token_by_token(loaded: LoadedModel, clips: list[ReadyClip]) -> None:
    calibration = Calibration(loaded, recipe(), clips, Budget.of("flops=0.2"), max_new_tokens=6)
    full = calibration.features()
    audio, text = sum(clip.audio_tokens for clip in clips), sum(sample.text[1] for sample in SAMPLES)
    assert full.audio.shape == full.survivors.shape == (audio, 32)
    assert full.prompt.shape == (text, 32)
    assert len(full.answer) == len(full.probabilities) == 6 * len(clips)
    torch.testing.assert_close(full.probabilities.square().sum(1), torch.ones(6 * len(clips)))
    for layer in calibration.candidates:
        reduced = calibration.features(layer)
        assert reduced.audio.shape == full.audio.shape
        assert len(reduced.survivors) < audio
        assert len(reduced.audio.unique(dim=0)) == len(reduced.survivors)
        assert not torch.equal(reduced.answer, full.answer)
    assert calibration.features(1) is calibration.features(1)


def test_the_full_models_features_are_its_own(loaded: LoadedModel, clips: list[ReadyClip]) -> None:
    """The answer fed after the prompt gives what one pass over both gives."""
    calibration = Calibration(loaded, recipe(), clips[:1], Budget.of("flops=0.2"), max_new_tokens=5)
    features, clip = calibration.features(), clips[0]
    with torch.inference_mode():
        answer = calibration._say()[0]
        said = loaded.model.get_input_embeddings()(answer[0, :-1])
        whole = torch.cat([clip.embeds, said]).unsqueeze(0)
        states = loaded.model.model.language_model(inputs_embeds=whole).last_hidden_state[0]
    torch.testing.assert_close(features.audio, states[: clip.tokens][clip.span_ids > 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(features.answer, states[clip.tokens - 1 :], atol=1e-4, rtol=1e-4)


def test_dropped_tokens_take_the_nearest_survivors_feature(loaded: LoadedModel, clips: list[ReadyClip]) -> None:
    strategy = recipe(name="prune")
    calibration = Calibration(loaded, strategy, clips[:1], Budget.of("flops=0.2"), max_new_tokens=3)
    with calibration.at(1).apply(loaded.model, spans=clips[0].span_ids.unsqueeze(0)) as trace:
        trace.keep_assignment = True
        with torch.inference_mode():
            loaded.model(inputs_embeds=clips[0].embeds.unsqueeze(0))
    assert trace.assignment is not None
    columns = trace.assignment[0][clips[0].span_ids > 0].tolist()
    kept = [place for place, column in enumerate(columns) if column >= 0]
    audio = calibration.features(1).audio
    assert 0 < len(kept) < len(columns)
    for place in range(len(columns)):
        assert torch.equal(audio[place], audio[min(kept, key=lambda k: (abs(k - place), k))])


def test_assignments_compose_over_layers() -> None:
    trace, assignments = Trace(keep_assignment=True), dict[int, torch.Tensor]()
    follow(assignments, 0, torch.tensor([[0, 1, 1, 2, 9]]), 3)
    follow(assignments, 2, torch.tensor([[0, 2, 1]]), 2)
    trace.publish([], assignments)
    assert trace.assignment is not None
    assert trace.assignment.tolist() == [[0, -1, -1, 1, -1]]
    trace.publish([], {})
    assert trace.assignment is None


def test_candidates_meet_one_budget_and_others_are_left_out(loaded: LoadedModel, clips: list[ReadyClip]) -> None:
    calibration = Calibration(loaded, recipe(), clips, Budget.of("flops=0.3"))
    assert calibration.candidates == (0, 1)
    assert set(calibration.left_out) == set(range(LAYERS)) - {0, 1}
    assert "cannot be met" in calibration.left_out[3]
    shape = fastadasp.DecoderShape.of(loaded.model.config.text_config)
    for layer in calibration.candidates:
        for clip in clips:
            text = clip.tokens - clip.audio_tokens
            solution = calibration.at(layer).solve(shape, text, [clip.audio_tokens], nearest=True)
            assert solution.flops_removed == pytest.approx(0.3, abs=0.01)
    shorter = Calibration(loaded, recipe(), clips, Budget.of("flops=0.3"), lengths=[(40, 30)])
    assert shorter.candidates == (0,)
    with pytest.raises(StrategyError, match="no start layer of 4 meets the budget"):
        Calibration(loaded, recipe(), clips, Budget.of("flops=0.9"))


@pytest.mark.parametrize("name", ["weighted", "prune", "fastadasp-dense"])
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"estimator": "gaussian", "features": "answer"},
        {"form": "residual", "features": "answer", "k": 2, "dims": 3},
        {"form": "difference", "features": "audio"},
        {"form": "resampled", "features": "audio", "estimator": "gaussian"},
    ],
    ids=lambda p: "-".join(map(str, p.values())) or "default",
)
def test_every_form_scores_every_candidate(
    loaded: LoadedModel, clips: list[ReadyClip], name: str, parameters: dict[str, Any]
) -> None:
    strategy = recipe({"name": "transfer-entropy", **parameters}, name=name)
    made, told = choose(loaded, clips, strategy, cached=False)
    assert not told
    assert set(made.choice.losses) == set(range(LAYERS)) - set(made.left_out)
    assert made.choice.losses[made.choice.layer] == min(made.choice.losses.values())
    assert 0 < made.choice.details["variance_kept"] <= 1
    assert made.choice.details["points"] in (18, 120)


def test_a_choice_is_cached_and_reused(loaded: LoadedModel, clips: list[ReadyClip], own_cache: Path) -> None:
    first, told = choose(loaded, clips, recipe())
    (entry,) = (own_cache / "layers").iterdir()
    stored = json.loads(entry.read_text())
    assert stored["choice"]["losses"]
    assert stored["choice"]["details"].keys() >= {"k", "dims", "variance_kept"}
    assert [clip["id"] for clip in stored["clips"]] == ["clip-0", "clip-1", "clip-2"]
    assert len(stored["model_hash"]) == 64
    again, told = choose(loaded, clips, recipe())
    assert again == first
    assert not told
    # a choice that is already filled in has no part in it
    assert choose(loaded, clips, recipe({"name": "transfer-entropy", "layer": 1}))[0] == first
    # nor have other parameters
    other, told = choose(loaded, clips, recipe({"name": "transfer-entropy", "k": 3}))
    assert not told
    assert len(list((own_cache / "layers").iterdir())) == 2
    assert other.choice.details["k"] == 3


def test_stale_and_damaged_entries_are_noticed(loaded: LoadedModel, clips: list[ReadyClip], own_cache: Path) -> None:
    first, _ = choose(loaded, clips, recipe())
    (entry,) = (own_cache / "layers").iterdir()

    again, told = choose(loaded, clips, recipe().replace(positions="compact"))
    assert len(told) == 1
    assert "is stale (changed: the recipe)" in told[0]

    path = clips[0].example.audio
    before = path.read_bytes()
    path.write_bytes(b"other")
    try:
        again, told = choose(loaded, clips, recipe())
    finally:
        path.write_bytes(before)
    assert "the recipe, the calibration clips" in told[0]
    assert again.clips != first.clips

    other = replace(loaded)
    other.__dict__["weights_hash"] = "0" * 64
    again, told = choose(other, clips, recipe())
    assert "the model's weights, the calibration clips" in told[0]
    assert again.model_hash == "0" * 64

    entry.write_text(entry.read_text()[:-20])
    again, told = choose(loaded, clips, recipe())
    assert "cannot be read" in told[0]
    assert choose(loaded, clips, recipe()) == (again, [])


def test_an_edited_part_another_device_and_another_version_make_a_choice_stale(
    loaded: LoadedModel, clips: list[ReadyClip], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = choose(loaded, clips, recipe())
    assert (first.device, first.version) == ("cpu", fastadasp.__version__)
    assert first.sources.keys() >= {"select", "merger", "schedule", "layers"}
    real = sources.source_hash
    changes = {"the source of the recipe's parts": (sources, "source_hash", lambda name: f"edited {real(name)}")}
    changes["the version of fastadasp"] = (select, "installed_version", lambda: "99.0")
    for what, (place, name, changed) in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(place, name, changed)
            assert f"is stale (changed: {what})" in choose(loaded, clips, recipe())[1][0]
        choose(loaded, clips, recipe())
    (entry,) = (own_cache / "layers").iterdir()
    wanted = {"device": "cuda"}
    told: list[str] = []
    assert read_entry(entry, wanted, told.append) is None
    assert "is stale (changed: the device)" in told[0]


@pytest.mark.parametrize("change", ["layer", "extra", "no checksum", "text", "list", "deep"])
def test_a_changed_entry_is_not_trusted(
    loaded: LoadedModel, clips: list[ReadyClip], own_cache: Path, change: str
) -> None:
    first, _ = choose(loaded, clips, recipe())
    (entry,) = (own_cache / "layers").iterdir()
    content = json.loads(entry.read_text())
    if change == "layer":
        content["choice"]["layer"] = next(int(k) for k in content["choice"]["losses"] if int(k) != first.choice.layer)
    elif change == "extra":
        content["unknown"] = 1
    elif change == "no checksum":
        del content["sha256"]
    odd = {"text": "no JSON", "list": "[1, 2]", "deep": "[" * 100_000}
    entry.write_text(odd.get(change, json.dumps(content)))
    again, told = choose(loaded, clips, recipe())
    assert again.choice == first.choice
    assert len(told) == 1
    assert "it is made anew" in told[0]
    assert choose(loaded, clips, recipe())[1] == []  # and the new one is good


def test_a_cache_that_cannot_be_written_is_done_without(
    loaded: LoadedModel, clips: list[ReadyClip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTADASP_CACHE", str(tmp_path / "file"))
    made, told = choose(loaded, clips, recipe())
    assert made.choice.losses
    assert any("cannot be cached" in message for message in told)


def test_the_cache_folder_follows_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTADASP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == Path("/elsewhere/fastadasp")


def test_budgets_other_than_flops_are_compared_at_the_selectors(loaded: LoadedModel, clips: list[ReadyClip]) -> None:
    made, _ = choose(loaded, clips, recipe(budget=0.5), cached=False)
    assert made.budget == "flops=0.3"
    made, _ = choose(loaded, clips, recipe({"name": "transfer-entropy", "flops": 0.1}, budget=0.5), cached=False)
    assert made.budget == "flops=0.1"


def test_a_strategy_without_a_layer_says_what_to_do(loaded: LoadedModel, clips: list[ReadyClip]) -> None:
    strategy = recipe()
    assert strategy.needs_calibration
    with (
        pytest.raises(StrategyError, match="has not chosen a layer yet: fastadasp select-layer"),
        strategy.apply(loaded.model),
    ):
        pass
    placed = at_layer(strategy, 1)
    assert not placed.needs_calibration
    assert placed.layers.start_layer(LAYERS) == 1
    assert fastadasp.Strategy.from_dict(placed.to_dict()) == placed
    with pytest.raises(StrategyError, match="start layer 4 does not exist"):
        at_layer(strategy, 4).layers.start_layer(LAYERS)
    with pytest.raises(StrategyError, match="layer selector 'fixed' needs no calibration"):
        choose(loaded, clips, fastadasp.load_strategy("weighted"))
    with pytest.raises(fastadasp.DataError, match="without calibration clips"):
        strategy.calibrated(loaded, [])


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"k": 0}, "layers.k"),
        ({"dims": 0}, "layers.dims"),
        ({"form": "resampled"}, 'set features = "audio"'),
        ({"estimator": "kraskov"}, "layers.estimator"),
        ({"flops": 1.5}, "layers.flops"),
    ],
)
def test_wrong_parameters_are_refused(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(StrategyError, match=words):
        recipe({"name": "transfer-entropy", **parameters})


def test_too_few_points_are_refused(loaded: LoadedModel, clips: list[ReadyClip]) -> None:
    with pytest.raises(StrategyError, match="18 points, too few for k = 40"):
        choose(loaded, clips, recipe({"name": "transfer-entropy", "k": 40}))


@pytest.mark.usefixtures("strangers")
def test_a_strangers_selector_works_like_ours(loaded: LoadedModel, clips: list[ReadyClip]) -> None:
    made, _ = choose(loaded, clips, recipe("deepest"))
    assert made.choice.layer == max(set(range(LAYERS)) - set(made.left_out))
    assert made.choice.details == {"looked": "no"}
    assert choose(loaded, clips, recipe("deepest"))[0] == made
    with pytest.raises(StrategyError, match="'astray' is faulty"):
        choose(loaded, clips, recipe("astray"))


def test_the_documented_selector_works(loaded: LoadedModel, clips: list[ReadyClip]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "layer-selection.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class Agreement" in block]
    names: dict[str, Any] = {}
    exec(compile(code, "docs/layer-selection.md", "exec"), names)
    made, _ = choose(loaded, clips, recipe(names["Agreement"]()), cached=False)
    assert all(0 <= loss <= 1 for loss in made.choice.losses.values())
    assert made.choice.details == {"points": 18}


def test_a_selector_without_choose_is_refused() -> None:
    class Plugin:
        @hookimpl
        def fastadasp_layer_selectors(self) -> list[type[LayerSelector]]:
            return [Unfinished]

    with pytest.raises(PluginError, match="class Unfinished does not define `choose`"):
        fastadasp.get_registry().register(Plugin())


def test_a_task_may_bring_calibration_clips(tmp_path: Path) -> None:
    for name in ("test", "train"):
        row = {"audio_filepath": f"{name}.wav", "reference": "one", "id": name}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    settings: dict[str, Any] = {"kind": "dense", "metric": "wer", "instruction": "say"}
    plain = ManifestTask("t", tmp_path / "test.jsonl", **settings)
    both = ManifestTask("t", tmp_path / "test.jsonl", calibration=tmp_path / "train.jsonl", **settings)
    assert [e.id for e in calibration_examples(plain)[0]] == ["test"]
    assert calibration_examples(plain)[1] == "the first clips of the task"
    assert [e.id for e in calibration_examples(both)[0]] == ["train"]
    assert calibration_examples(both)[1] == "the task's calibration clips"


def test_rank_correlation() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 15]) == pytest.approx(0.5)
    assert rank_correlation([1, 1, 2], [3, 3, 5]) == pytest.approx(1.0)
    assert rank_correlation([1, 2], [5, 5]) is None


@pytest.mark.usefixtures("strangers")
def test_compare_calibrates_and_records(tmp_path: Path) -> None:
    recipe_file = tmp_path / "late.toml"
    strategy = fastadasp.load_strategy("weighted").to_dict() | {"name": "late", "layers": {"name": "deepest"}}
    recipe_file.write_text(fastadasp.Strategy.from_dict(strategy).to_toml())
    spec = comparison([str(recipe_file), "prune"], ["flops=0.4"], ["er"], limit=2, device="cpu")
    how = Options(str(model_path()), tmp_path / "run", command="compare", store=tmp_path / "run" / "store")
    finished = Study(spec, how, print).run().finished
    assert [finished.error(point) for point in finished.points] == [None, None, None]
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    (start,) = stored["start_layers"]
    assert (start["task"], start["strategy"], start["budget"]) == ("er", "late", "flops=0.4")
    assert start["clips_from"] == "the task's calibration clips"
    assert len(start["clips"]) == 16
    full, late, prune = (finished.results[point.cell] for point in finished.points)
    fixed = fastadasp.load_strategy("prune").layers.start_layer(10)
    assert (full.layer, late.layer, prune.layer) == (None, start["layer"], fixed)
    assert start["layer"] <= start["choice"] == max(map(int, start["losses"]))


def test_a_sweep_sets_estimate_beside_outcome(tmp_path: Path) -> None:
    from fastadasp.inference.clips import prepare
    from fastadasp.inference.load import load_model

    model = load_model(str(model_path()), "cpu", "float32")
    task = fastadasp.get_registry().get("task", "er")
    examples = task.examples(4)
    made = prepare(model, examples, 4, lambda _: None)
    chosen = [made[str(e.audio), e.instruction] for e in examples]
    variants = [recipe({"name": "transfer-entropy", "k": k}, "flops=0.4") for k in (2, 3)]
    told: list[tuple[str, int, int]] = []
    found = sweep(model, variants, task, chosen, (chosen, "these"), progress=lambda *at: told.append(at))
    cells = 4 * (1 + len(found.outcome))
    assert [at for at in told if at[0].endswith("choosing")] == [
        ("er weighted flops=0.4: choosing", done, cells) for done in range(cells)
    ]
    assert told[-1] == ("er weighted flops=0.4: outcome", cells, cells)
    assert set(found.outcome) == set(found.outcome_full) == set(found.estimates[0].losses)
    assert [estimate.selector["k"] for estimate in found.estimates] == [2, 3]
    for estimate in found.estimates:
        assert estimate.behind == pytest.approx(max(found.outcome.values()) - found.outcome[estimate.layer])
