"""`fastadasp bench`: what it measures is true to what it says, on shapes small enough for a test."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_cases import SMALL, plan, run
from tiny import error

import fastadasp
from fastadasp.bench import grid, measure, operator, presets, released, report
from fastadasp.bench.machine import held_bytes, peak_bytes, reset_peak
from fastadasp.bench.shapes import SHAPES, build, find_shape
from fastadasp.counts.shape import DecoderShape

ROW = {
    "strategy", "seconds", "beams", "prefill_s", "decode_tokens_per_s", "peak_bytes", "kv_bytes", "flops_removed",
    "prefill_speedup", "realised", "reduction_share",
}  # fmt: skip
OPERATOR_ROW = {"tokens", "hidden", "dtype", "device", "merge_ratio", "operator_ratio"}


def test_rows_of_a_model() -> None:
    rows = [row for part in grid.run(plan(seconds=[2, 4], beams=[1, 2], batch=2)) for row in part]
    assert [(row["seconds"], row["beams"], row["strategy"]) for row in rows[:4]] == [
        (2, 1, "full"), (2, 1, "weighted"), (4, 1, "full"), (4, 1, "weighted"),
    ]  # fmt: skip
    assert len(rows) == 8
    bytes_a_key = DecoderShape.of(build(SHAPES["tiny"], "cpu", "float32", "sdpa").config).kv_bytes([1], 4)
    for full, reduced in zip(rows[::2], rows[1::2], strict=True):
        assert set(full) >= ROW
        assert (full["audio_tokens"], full["text_tokens"]) == (25 * full["seconds"], 12)
        # the cache of every beam of every recording, 8 layers
        keys = (full["audio_tokens"] + 12) * 8 * 2 * full["beams"]
        assert full["kv_bytes"] == keys * bytes_a_key
        assert reduced["kv_bytes"] < full["kv_bytes"]
        assert (full["flops_removed"], full["ideal_speedup"], full["realised"]) == (0.0, 1.0, 1.0)
        assert abs(reduced["flops_removed"] - 0.3) < 0.03
        assert reduced["ideal_speedup"] == pytest.approx(1 / (1 - reduced["flops_removed"]))
        assert reduced["prefill_speedup"] == pytest.approx(full["prefill_s"] / reduced["prefill_s"])
        assert reduced["realised"] == pytest.approx(reduced["prefill_speedup"] / reduced["ideal_speedup"])
        assert full["reduction_share"] is None
        assert 0 < reduced["reduction_s"] < reduced["prefill_s"] * 2
        for row in (full, reduced):
            assert row["decode_tokens_per_s"] == pytest.approx(2 * 3 / row["decode_s"])
            low, high = row["prefill_quartiles_s"]
            assert low <= row["prefill_s"] <= high
            assert row["real_time_factor"] == pytest.approx((row["prefill_s"] + row["decode_s"]) / row["seconds"] / 2)
    json.dumps(rows)


def test_a_run_without_decoding() -> None:
    (rows,) = grid.run(plan(new_tokens=1, rounds=1, warmup=0))
    assert [(row["decode_s"], row["decode_tokens_per_s"]) for row in rows] == [(None, None)] * 2


@pytest.mark.parametrize("name", sorted(set(SHAPES) - {"tiny"}))
def test_shapes_are_those_of_the_models(name: str) -> None:
    """The decoder's parameters, counted from its sizes, are as many as the model's name says."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = find_shape(name)
    config = AutoConfig.for_model(shape.kind, **shape.sizes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    billions = sum(p.numel() for p in model.parameters()) / 1e9
    expected = {
        "qwen2-audio-7b": 7.75, "voxtral-3b": 4.01, "qwen2.5-omni-7b": 7.62, "qwen3-asr-0.6b": 0.6, "wavllm-7b": 6.74,
    }  # fmt: skip
    assert billions == pytest.approx(expected[name], rel=0.02)
    assert shape.tokens(240) == 240 * shape.rate
    assert fastadasp.get_registry().get("model", shape.kind)


def test_random_weights_make_a_working_model() -> None:
    one, other = (build(SHAPES["tiny"], "cpu", "float32", attention) for attention in ("sdpa", "eager"))
    prompt = measure.make_prompt(one, 30, 8, 1)
    assert prompt.spans.sum() == 30
    logits = [model(inputs_embeds=prompt.embeds).logits for model in (one, other)]
    assert bool(logits[0].isfinite().all())
    assert error(*logits) < 1e-4  # the rotary embedding was computed, not left empty
    assert logits[0].std() > 0
    with fastadasp.load_strategy("weighted", budget=0.5).apply(one, spans=prompt.spans) as trace:
        one(inputs_embeds=prompt.embeds)
    assert trace.layers[-1].audio_tokens == 15


def test_the_released_way_gives_the_same_result() -> None:
    case = operator.Case.make(80, 256, "float32", "cpu")
    similar, weight = case.scores()
    assert torch.allclose(released.affinity(case.key), similar[0], atol=1e-5)
    assert torch.allclose(released.received(case.query, case.key, 128**-0.5), weight[0], rtol=1e-4)
    theirs = released.merge(case.states[0], similar[0], weight[0], case.removed)
    assert error(case.merge(similar, weight)[0], theirs) < 1e-6
    assert len(theirs) == 40


def test_a_matrix_that_does_not_fit_is_left_out() -> None:
    (row,) = operator.run([64], [128], ["float32"], "cpu", rounds=1, matrix_limit=1000)
    assert (row["released_score_s"], row["operator_ratio"]) == (None, None)
    assert row["merge_ratio"] > 0
    assert "too large" in str(report.operator_table([row]).columns[5]._cells)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory of a process: Linux only")
def test_exact_scoring_of_6000_tokens_takes_little_memory() -> None:
    """At most 50 MB beyond queries and keys, a matrix of 32 heads would be 4.6 GB."""
    code = (
        "import torch; from fastadasp.bench.machine import *; from fastadasp.engine.received import received_attention;"
        "torch.set_num_threads(1); q, k = torch.randn(1, 6000, 4, 512).transpose(1, 2), torch.randn(1, 4, 6000, 512);"
        "received_attention(q[:, :, :200], k[:, :, :200], 0.1); reset_peak('cpu'); before = held_bytes('cpu');"
        "received_attention(q, k, 0.1); print(peak_bytes('cpu') - before);"
        "from fastadasp.engine.adjacent import cosine_to_next_key; from fastadasp.engine.spans import find_spans;"
        "k, spans = torch.randn(1, 32, 6000, 128), find_spans(torch.ones(1, 6000, dtype=torch.int64), None);"
        "reset_peak('cpu'); before = held_bytes('cpu'); cosine_to_next_key(k, spans);"
        "print(peak_bytes('cpu') - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    received, adjacent = map(int, done.stdout.split())
    assert 0 < received <= 50e6
    assert 0 <= adjacent <= 50e6


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory of a process: Linux only")
def test_peak_memory_is_seen() -> None:
    reset_peak("cpu")
    before = held_bytes("cpu")
    x = torch.ones(40_000_000)
    del x
    after = peak_bytes("cpu")
    assert before is not None
    assert after is not None
    assert 150e6 < after - before < 250e6
    reset_peak("cpu")
    assert (peak_bytes("cpu") or 0) < after - 100e6


# ---- the command line ----


def test_command_prints_a_table_and_draws(tmp_path: Path) -> None:
    code, shown, _ = run(*SMALL, "--budgets", "flops=0.2", "--plot", str(tmp_path / "bench.svg"))
    assert code == 0
    for word in ("weighted", "flops=0.2", "realised", "tiny, float32", "torch " + version("torch")):
        assert word in shown
    assert "seconds of audio" not in shown
    assert (tmp_path / "bench.svg").stat().st_size > 5000


def test_command_gives_json() -> None:
    code, shown, _ = run(*SMALL, "--budgets", "tokens=0.3,0.5", "--json", "--set", "layers.layer=2")
    assert code == 0
    rows = json.loads(shown)
    assert [(row["strategy"], row["budget"]) for row in rows[:3]] == [
        ("full", None), ("weighted", "0.3"), ("weighted", "0.5"),
    ]  # fmt: skip
    assert len(rows) == 6
    assert set(rows[0]) >= ROW | {"device", "clocks", "versions"}


def test_operator_command_gives_json() -> None:
    code, shown, _ = run("operator", "--tokens", "64,96", "--hidden", "128", "--rounds", "1", "--json")
    assert code == 0
    rows = json.loads(shown)
    assert [(row["tokens"], row["dtype"]) for row in rows] == [
        (64, "float32"), (96, "float32"), (64, "bfloat16"), (96, "bfloat16"),
    ]  # fmt: skip
    assert all(set(row) >= OPERATOR_ROW for row in rows)
    assert all(row["operator_ratio"] > 0 for row in rows)


def test_the_papers_figures_stand_beside_ours() -> None:
    code, shown, _ = run("--preset", "paper", "--shape", "tiny", *SMALL, "--seconds", "120", "--beams", "1")
    assert code == 0
    assert "paper, H100" in shown
    assert "1.44x" in shown
    assert shown.count("ours, weighted") == 2  # beside the paper's two machines
    figures = report.paper()["rows"]
    assert len(figures) == 8
    assert [row["tokens_per_s"][1] for row in figures if row["gpu"] == "H100"] == [24.73, 20.66, 16.75, 12.55]


def row(shape: str, strategy: str, speed: float, **more: Any) -> dict[str, Any]:
    """A row of the model's benchmark, as far as pictures and the paper's table go."""
    alike = {"dtype": "bfloat16", "attention": "sdpa", "compiled": False, "batch": 1, "beams": 1, "new_tokens": 80}
    times = {"real_time_factor": 0.1, "prefill_s": 1.0, "decode_s": 80 / speed, "decode_tokens_per_s": speed}
    budget = None if strategy == "full" else "0.5"
    return {"shape": shape, "strategy": strategy, "budget": budget, "seconds": 240, **alike, **times} | more


def test_the_papers_figures_stand_beside_those_of_its_model_alone() -> None:
    """The preset h100 measures another model first, whose full rows are no base for the paper's."""
    rows = [row("qwen2-audio-7b", "full", 100.0), row("qwen2-audio-7b", "weighted", 150.0)]
    rows += [row("wavllm-7b", "full", 10.0, new_tokens=64), row("wavllm-7b", "full", 20.0)]
    rows += [row("wavllm-7b", "weighted", 50.0), row("wavllm-7b", "weighted", 60.0, compiled=True)]
    table = report.paper_table(rows, "wavllm-7b")
    ours = [place for place, whose in enumerate(table.columns[0]._cells) if str(whose).startswith("ours")]
    assert [table.columns[-1]._cells[place] for place in ours] == ["2.50x", "2.50x"]  # beside the two machines


def test_a_line_of_a_picture_is_of_one_setting() -> None:
    lengths = (240, 30)
    rows = [row("tiny", name, 1.0, dtype=dtype, seconds=seconds, budget=None if name == "full" else "0.5")
            for dtype in ("float32", "bfloat16") for seconds in lengths for name in ("full", "weighted")]  # fmt: skip
    found = report.lines(rows)
    assert list(found) == ["full, float32", "weighted 0.5, float32", "full, bfloat16", "weighted 0.5, bfloat16"]
    assert all([one["seconds"] for one in own] == [30, 240] for own in found.values())
    compiled = report.lines([row("tiny", "full", 1.0), row("tiny", "full", 1.0, compiled=True, beams=5)])
    assert list(compiled) == ["full, not compiled, 1 beam", "full, compiled, 5 beams"]


def test_options_change_all_of_a_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans that an option makes equal run once, and the operator's part hears of it, too."""
    plans, operators = [], []
    monkeypatch.setattr(grid.Plan, "check_room", lambda plan: None)
    monkeypatch.setattr("fastadasp.cli.bench._model_rows", lambda plan, *_: plans.append(plan) or [])
    monkeypatch.setattr("fastadasp.cli.bench._operator_rows", lambda options, *_: operators.append(options) or [])
    assert run("--preset", "cpu", "--device", "cpu")[0] == 0
    assert ([plan.dtype for plan in plans], operators[0]["rounds"]) == (["float32", "bfloat16"], 3)
    plans.clear(), operators.clear()
    assert run("--preset", "cpu", "--device", "cpu", "--dtype", "bfloat16", "--rounds", "1")[0] == 0
    assert [(plan.dtype, plan.rounds) for plan in plans] == [("bfloat16", 1)]
    assert [(one["dtypes"], one["rounds"]) for one in operators] == [(("bfloat16",), 1)]


@pytest.mark.parametrize("name", sorted(presets.PRESETS))
def test_presets_are_sound(name: str) -> None:
    for options in presets.find_preset(name).models:
        made = grid.Plan(**{**options, "shape": find_shape(options["shape"])})
        made.check()
        model_shape = DecoderShape.of(_config(made.shape))
        for recipe in made.recipes():
            for seconds in made.seconds:
                recipe.solve(model_shape, made.text, [made.shape.tokens(seconds)], nearest=True)


def _config(shape: object) -> object:
    from transformers import AutoConfig

    return AutoConfig.for_model(shape.kind, **shape.sizes)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shape", "qwen2-audio"], "Did you mean 'qwen2-audio-7b'"),
        (["--preset", "papper"], "Did you mean 'paper'"),
        (["--seconds", "ten"], "--seconds 'ten': give numbers"),
        (["--seconds", "0"], "above 0, not 0"),
        (["--seconds", "-1"], "above 0, not -1"),
        (["--seconds", "nan"], "a number above 0, not nan"),
        (["--seconds", "inf"], "a number above 0, not inf"),
        (["--warmup", "-1"], "warm-up rounds are at least 0, not -1"),
        (["--text", "-4"], "at least 1 text token, not -4"),
        (["--seconds", "1e9"], "needs at least 76.8 TB of memory, but"),
        (["--batch", "100000000"], "needs at least 252 TB of memory, but"),
        (["--new-tokens", "10000000000000"], "needs at least 20.5 PB of memory, but"),
        (["--seconds", "240", "--attn", "eager", "--batch", "100000"], "of memory, but"),
        (["operator", "--tokens", "1000000000"], "1000000000 x 1024 in float32 needs at least 14.3 TB of memory"),
        (["--beams", "0"], "beams must be at least 1, not 0"),
        (["--rounds", "0"], "rounds must be at least 1, not 0"),
        (["--attn", "flash"], "sdpa or eager, not 'flash'"),
        (["--dtype", "int8"], "dtype is one of"),
        (["--strategies", "wieghted"], "Did you mean 'weighted'"),
        (["--strategies", "fastadasp-sparse"], "--set layers.layer=2"),
        (["--budgets", "2"], "budget"),
        (["--plot", "x.gif"], ".png or .svg"),
        (["operator", "--tokens", "1"], "tokens 1 is not possible"),
        (["operator", "--hidden", "100"], "multiples of 128"),
        (["operator", "--tokens", ""], "no number given"),
        (["--seconds", "5", "operator"], "--seconds has no effect before operator; write it after"),
    ],
)
def test_errors_are_for_people(words: list[str], message: str) -> None:
    code, _, told = run(*words)
    assert code == 2
    assert message in told


def test_operator_tells_how_far_it_is() -> None:
    told: list[tuple[str, int, int]] = []
    rows = operator.run([64], [128], ["float32", "bfloat16"], "cpu", rounds=2, progress=lambda *x: told.append(x))
    assert len(list(rows)) == 2
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert {name for name, _, _ in told} == {"64 x 128, float32", "64 x 128, bfloat16"}
    assert told[-1][1:] == (3, 4)


def test_operator_is_not_silent_without_a_terminal() -> None:
    run = [sys.executable, "-m", "fastadasp", "bench", "operator", "--tokens", "64", "--hidden", "128", "--rounds", "1"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "64 x 128, float32" in done.stderr
    assert "64 x 128, bfloat16" in done.stderr
