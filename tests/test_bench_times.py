"""The times of fastadasp bench: the whole, encoders, memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bench_cases import SMALL, plan, run

from fastadasp.bench import encoders, grid, limits, report
from fastadasp.bench.shapes import SHAPES, build, find_shape


def test_the_whole_is_encoder_prefill_and_decoding() -> None:
    (rows,) = grid.run(plan(seconds=[4], rounds=3, batch=2))
    full, reduced = rows
    assert full["encoder_s"] == reduced["encoder_s"] > 0
    low, high = full["encoder_quartiles_s"]
    assert low <= full["encoder_s"] <= high
    assert full["whole_saved"] == 0.0
    assert reduced["whole_saved"] == pytest.approx(1 - reduced["whole_s"] / full["whole_s"])
    for row in rows:  # medians of sums and sums of medians lie within each other's spread
        parts = row["encoder_s"] + row["prefill_s"] + row["decode_s"]
        spread = sum(b - a for a, b in (row["prefill_quartiles_s"], row["decode_quartiles_s"]))
        assert row["whole_s"] == pytest.approx(parts, abs=2 * spread + 1e-3)


def test_times_in_the_table_are_those_of_one_recording() -> None:
    (rows,) = grid.run(plan(rounds=2, batch=2))
    table = report.model_table(rows)
    cells = {str(column.header): list(column._cells) for column in table.columns}
    for name in ("encoder", "prefill", "decode", "whole"):
        shown, unit = str(cells[name][0]).split()
        scale = {"ms": 1e3, "s": 1.0}[unit]
        assert float(shown) == pytest.approx(rows[0][f"{name}_s"] / 2 * scale, rel=0.02)
    assert cells["saved"][0] == ""
    assert str(cells["saved"][1]) == f"{rows[1]['whole_saved']:.0%}"


def test_a_busy_machine_is_told() -> None:
    (rows,) = grid.run(plan(rounds=2))
    for row in rows:
        row |= {name: [1.0, 1.0] for name in ("encoder_quartiles_s", "prefill_quartiles_s", "decode_quartiles_s")}
    assert "something else was running" not in str(report.model_table(rows).caption)
    rows[0]["prefill_quartiles_s"] = [0.0, rows[0]["whole_s"]]
    assert "rounds differ by more than 10% of the whole" in str(report.model_table(rows).caption)


def test_every_shape_has_the_encoder_of_its_model() -> None:
    """As many parameters as are known: Whisper large's 637 million, WavLM base's 94."""
    expected = {
        "qwen2-audio-7b": 637, "voxtral-3b": 637, "qwen2.5-omni-7b": 635, "qwen3-asr-0.6b": 185, "wavllm-7b": 731,
    }  # fmt: skip
    for name, millions in expected.items():
        found = sum(map(encoders.parameters_of, find_shape(name).encoder)) / 1e6
        assert found == pytest.approx(millions, rel=0.01), name


@pytest.mark.parametrize("kind", ["qwen3_asr_encoder", "wavlm", "whisper"])
def test_encoders_hear_every_window(kind: str) -> None:
    part = {
        "qwen3_asr_encoder": encoders.Part(
            kind, 1.0, {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16,
                        "downsample_hidden_size": 4},
        ),
        "wavlm": encoders.Part(kind, 2.0, {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                                           "intermediate_size": 16, "num_conv_pos_embedding_groups": 2}),
        "whisper": encoders.whisper(16, 1, 2, 8, 2.0),
    }[kind]  # fmt: skip
    made = encoders.build_encoder((part,), "cpu", "float32", "sdpa")
    (given,) = made.inputs(5.0, 2)
    sound = next(iter(given.values()))
    seconds = sound.shape[0] * sound.shape[-1] / (encoders.RATE if kind == "wavlm" else encoders.FRAMES) / 2
    assert seconds == part.windows(5.0) * part.window >= 5.0
    with torch.inference_mode():
        made([given])


def test_memory_is_estimated_below_what_is_taken() -> None:
    """The estimate is a lower bound: weights of the tiny shape, and what grows with the prompt."""
    few, many = (limits.model_bytes(SHAPES["tiny"], s, 50, 4, 1, 1, "float32", "sdpa") for s in (10, 1000))
    weights = 4 * sum(p.numel() for p in build(SHAPES["tiny"], "cpu", "float32", "sdpa").parameters())
    assert few > weights
    assert 0 < many - few < 4 * 25 * 990 * (2 * 8 * 2 * 16 + 2 * 64 + 128) + 1
    assert limits.model_bytes(SHAPES["tiny"], 10, 50, 4, 1, 1, "bfloat16", "sdpa") == few // 2
    assert limits.model_bytes(SHAPES["tiny"], 10, 50, 4, 3, 5, "float32", "eager") > 15 * (few - weights) / 2


def test_running_out_of_memory_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(grid, "time_run", fail)
    code, _, told = run(*SMALL)
    assert code == 2
    assert "1 beam in float32 does not fit into the memory of" in told
    assert "Traceback" not in told


def test_points_of_the_picture_lie_within_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))[1])
    rows = [row for part in grid.run(plan(seconds=[2, 4], rounds=1)) for row in part]
    report.draw(tmp_path / "speed.png", rows)
    for axes in drawn[0].axes:
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        for line in axes.lines:
            for x, y in line.get_xydata():  # type: ignore[union-attr]
                assert left < x < right - 0.01 * (right - left)
                assert bottom <= y < top - 0.01 * (top - bottom)
    assert drawn[0].legends
