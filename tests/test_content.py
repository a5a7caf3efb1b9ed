"""Budgets over a run: content decides what each clip loses, by one threshold for all of them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import ONE, audio_model, batch, text_model

import fastadasp
from fastadasp import Budget, StrategyError
from fastadasp.cli.app import main
from fastadasp.contracts.task import Example
from fastadasp.demo import data_path, model_path
from fastadasp.harness.answers import Answering
from fastadasp.inference.clips import ReadyClip, prepare
from fastadasp.inference.content import settle
from fastadasp.inference.load import LoadedModel, load_model
from fastadasp.inference.runner import run_cell
from fastadasp.strategy import get_registry

FOLLOWING = [
    "affinity-pooling",
    "average-merge",
    "dual-affinity-pooling",
    "fastadasp-decay",
    "fastadasp-dense",
    "weighted",
]


@lru_cache
def ready(count: int = 4) -> tuple[LoadedModel, list[ReadyClip]]:
    """The embedded model and clips of its test set."""
    loaded = load_model(str(model_path()))
    lines = (data_path() / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["task"] == "asr"][:count]
    examples = [Example(row["id"], data_path() / row["audio_filepath"], "Write down the numbers.", "") for row in rows]
    made = prepare(loaded, examples, 3, lambda _: None)
    return loaded, [made[str(e.audio), e.instruction] for e in examples]


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, in this process."""
    out, told, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
        patch.setattr("sys.argv", ["fastadasp", *arguments])
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, out.getvalue(), told.getvalue()


def answered(recipe: fastadasp.Strategy) -> Any:
    loaded, clips = ready()
    return run_cell(loaded, recipe, clips, max_new_tokens=1, batch_size=3, progress=lambda _: None)


def test_they_are_read_and_written() -> None:
    budget = Budget.of("mean-tokens=0.3")
    assert budget == Budget.of({"mean-tokens": 0.3}) == Budget(mean_tokens=0.3)
    assert (budget.kind, budget.fraction, str(budget)) == ("mean-tokens", 0.3, "mean-tokens=0.3")
    assert [str(one) for one in Budget.several(["mean-flops=0.1", "0.2"])] == ["mean-flops=0.1", "mean-flops=0.2"]
    recipe = fastadasp.load_strategy("weighted", mean_flops=0.4)
    assert type(recipe).from_dict(recipe.to_dict()) == recipe == recipe.with_budget("mean-flops=0.4")


def test_who_can_is_declared_and_others_are_refused_with_their_names() -> None:
    entries = get_registry().entries("strategy")
    can = [e.name for e in entries if e.value.follows_content and e.origin.distribution == "fastadasp"]
    assert set(FOLLOWING) <= set(can)
    assert not {"average-pool", "random", "prune", "h2o", "tome"} & set(can)
    for name in ("prune", "average-pool"):
        with pytest.raises(StrategyError, match=f"one threshold for all clips.*Strategies that can: .*{can[0]}"):
            fastadasp.load_strategy(name, budget="mean-tokens=0.3")
    with pytest.raises(StrategyError, match=r"finds `merger.threshold` by itself"):
        fastadasp.load_strategy("weighted", **{"budget": "mean-tokens=0.3", "merger.threshold": 0.5})
    listed = {row["name"]: row["follows_content"] for row in json.loads(run("strategies", "--json")[1])}
    assert [name for name in can if not listed[name]] == []


def test_a_single_prompt_cannot_meet_them() -> None:
    recipe = fastadasp.load_strategy("affinity-pooling", budget="mean-tokens=0.3")
    with pytest.raises(StrategyError, match="holds over all clips of a run"), recipe.apply(text_model()):
        pass
    with pytest.raises(StrategyError, match="holds over a run, but a harness asks in batches"):
        Answering.load("nowhere", "affinity-pooling", "mean-tokens=0.3")
    assert "depends on all clips of a run" in str(recipe.why_not_on_features(10))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("affinity-pooling", "mean-tokens"),
        ("affinity-pooling", "mean-flops"),
        ("weighted", "mean-flops"),
        ("fastadasp-dense", "mean-tokens"),
        ("dual-affinity-pooling", "mean-flops"),
    ],
)
def test_the_mean_is_met_within_a_token_a_clip(name: str, kind: str) -> None:
    spent = answered(fastadasp.load_strategy(name, budget=f"{kind}=0.4"))
    audio = [cost.audio_tokens for cost in spent.costs]
    if kind == "mean-tokens":
        lost = sum(audio) - sum(cost.audio_tokens_left for cost in spent.costs)
        assert abs(lost - 0.4 * sum(audio)) <= len(audio)
    else:
        full, token = sum(cost.flops_full for cost in spent.costs), len(audio) / sum(audio)
        assert abs(full - sum(cost.flops for cost in spent.costs) - 0.4 * full) <= token * full
    shares = [1 - cost.audio_tokens_left / cost.audio_tokens for cost in spent.costs]
    found = spent.efficiency
    assert (found.removed_least, found.removed_most) == (min(shares), max(shares))
    assert found.removed_deviation == pytest.approx(np.std(shares))
    assert found.removed_most - found.removed_least > 0.02  # content decides
    assert -1 <= found.threshold <= 1


def test_the_threshold_is_the_quantile_of_all_scores() -> None:
    """Where one layer acts: as many pairs of all clips together are at least so alike as are to go."""
    loaded, clips = ready()
    recipe, threshold = settle(loaded, fastadasp.load_strategy("affinity-pooling", budget="mean-tokens=0.4"), clips, 3)
    pairs = []
    for clip in clips:
        x = clip.embeds[clip.span_ids > 0].double()
        pairs.append(torch.nn.functional.cosine_similarity(x[1:], x[:-1], dim=-1))
    whole = sum(clip.audio_tokens for clip in clips)
    expected = [int((one >= threshold).sum()) for one in pairs]
    assert abs(sum(expected) - 0.4 * whole) <= len(clips)
    assert recipe.merger.parameters()["threshold"] == threshold
    spent = answered(recipe)  # the recipe found serves other clips as well
    assert [cost.audio_tokens - cost.audio_tokens_left for cost in spent.costs] == expected
    assert spent.efficiency.threshold is None


def test_a_worked_case() -> None:
    """Two clips; one is a constant, so all of it is alike: it pays for the other."""
    loaded, clips = ready()
    first, still = clips[0], clips[1]
    silent = still.embeds.clone()
    silent[still.span_ids > 0] = silent[still.span_ids > 0][:1]
    both = [first, ReadyClip(still.example, silent, still.span_ids, still.side, still.encoder)]
    share = 0.9 * (still.audio_tokens - 1) / (first.audio_tokens + still.audio_tokens)
    method = fastadasp.load_strategy("affinity-pooling", budget=f"mean-tokens={share:.6f}")
    # all equal pairs go at once or none; whether any threshold spares them is a matter of rounding: their cosine is 1
    with pytest.raises(StrategyError, match=r"cannot be met: the thresholds of merger 'runs' next to it remove 0\.\d+"):
        settle(loaded, method, both, 2)
    share = (still.audio_tokens - 1) / (first.audio_tokens + still.audio_tokens)
    recipe, _ = settle(loaded, method.with_budget(f"mean-tokens={share:.6f}"), both, 2)
    spent = run_cell(loaded, recipe, both, max_new_tokens=1, batch_size=2, progress=lambda _: None)
    assert [cost.audio_tokens_left for cost in spent.costs] == [first.audio_tokens, 1]


def test_too_much_is_refused() -> None:
    loaded, clips = ready()
    method = fastadasp.load_strategy("weighted", budget="mean-flops=0.95")  # layer 0 sees every token
    with pytest.raises(StrategyError, match="of what the 4 clips have together"):
        settle(loaded, method, clips, 4)


def test_a_threshold_in_a_plain_call() -> None:
    model, inputs = audio_model(), batch(ONE)
    left = []
    for threshold in (-1.0, 0.0, 1.0):
        recipe = fastadasp.load_strategy("affinity-pooling", budget="ratio=0.99", **{"merger.threshold": threshold})
        with torch.no_grad(), recipe.apply(model) as trace:
            model(**inputs)
        left.append(trace.layers[-1].audio_tokens)
    assert left[0] == 1 < left[1] < left[2]


def test_compare_shows_spread_and_the_worst_clip(tmp_path: Path) -> None:
    command = ("compare", "--strategies", "affinity-pooling", "--tasks", "asr", "--limit", "3", "--budgets")
    code, shown, told = run(*command, "mean-tokens=0.5", "--output", str(tmp_path / "run"), "--wide")
    assert code == 0, told
    for column in ("threshold", "a clip loses", "s.d.", "worst clip"):
        assert column in shown
    cells = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    full, ours = cells
    assert full["efficiency"]["removed_most"] == 0
    assert ours["efficiency"]["threshold"] is not None
    assert ours["worst"]["id"].startswith("asr-")
    assert 0 < ours["worst"]["removed"] < 1
    code, _, told = run("report", str(tmp_path / "run"), "--output", str(tmp_path / "out.csv"))
    assert code == 0, told
    (_, row) = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    assert (row["worst_clip"], float(row["threshold"])) == (ours["worst"]["id"], ours["efficiency"]["threshold"])
    assert float(row["removed_least"]) < float(row["removed_most"])
    submitted = ("submit", str(tmp_path / "run"), "--output", str(tmp_path / "mine.json"))
    board = ("leaderboard", str(tmp_path / "mine.json"), "--output", str(tmp_path / "board.html"))
    for command_, page in (
        (("report", str(tmp_path / "run"), "--timelines", "0"), tmp_path / "run" / "report.html"),
        (submitted, tmp_path / "mine.json"),
        (board, tmp_path / "board.html"),
    ):
        code, _, told = run(*command_)
        assert code == 0, told
        text = page.read_text(encoding="utf-8")
        if page.suffix == ".html":
            assert f"{ours['worst']['id']}: {ours['worst']['value']:.0f} (-{ours['worst']['removed']:.0%})" in text
            assert f"{ours['efficiency']['threshold']:.4f}" in text
            assert f"{100 * ours['efficiency']['removed_deviation']:.1f}</td>" in text
    code, _, told = run(*command[:2], "affinity-pooling,prune", *command[3:], "mean-tokens=0.5")
    assert code == 2
    assert "Strategies that can: affinity-pooling" in told
    assert "Traceback" not in told
