"""What a clip took: measured once for the encoder, added only where one machine did all of it, never guessed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from test_lines import HEADING, Cells, entries, result

import fastadasp
from fastadasp.demo import model_path
from fastadasp.errors import RunError
from fastadasp.experiments.axes import find_task
from fastadasp.experiments.pages import check_page, insert
from fastadasp.experiments.records import CLIP_TIMES, Times
from fastadasp.experiments.tables import COMPARISON
from fastadasp.experiments.times import Spent, markdown_times, spent, texts, why_unknown
from fastadasp.files import parse_json
from fastadasp.inference.clips import prepare
from fastadasp.inference.features import FeatureCache
from fastadasp.inference.load import load_model

OLD = Path(__file__).parent / "fixtures" / "runs-0.1.0"


@dataclass
class Cell:
    """What a cell says of its times."""

    encoder_clip_seconds: float | None = 0.3
    prefill_clip_seconds: float | None = 0.08
    decode_clip_seconds: float | None = 0.02
    encoder_machine: str | None = "a"
    machine: str | None = "a"


def test_the_whole_is_the_sum_and_what_is_saved_of_the_full_models() -> None:
    quick = [Cell(prefill_clip_seconds=0.02), Cell(prefill_clip_seconds=0.04), Cell(prefill_clip_seconds=9.0)]
    full, reduced = spent([(True, [Cell()]), (False, quick)])
    assert (full.whole, full.saved) == (pytest.approx(0.4), None)
    assert reduced.prefill == 0.04  # one pause of the machine does not rule
    assert reduced.whole == pytest.approx(0.36)
    assert reduced.saved == pytest.approx(0.1)
    assert texts(full, full=True) == ("300 ms", "80 ms", "20 ms", "400 ms", "")
    assert texts(reduced, full=False) == ("300 ms", "40 ms", "20 ms", "360 ms", "10.0%")
    assert why_unknown([Cell(), *quick]) == ""


def test_one_encoder_for_all_lines_of_a_task() -> None:
    """Workers that encode side by side take different times, which no strategy is to be credited with."""
    times = spent([(True, [Cell(0.3)]), (False, [Cell(0.2)]), (False, [Cell(0.9)]), (False, [Cell(None)])])
    assert [one.encoder for one in times] == [0.3] * 4
    assert times[1].saved == times[2].saved == 0


@pytest.mark.parametrize(
    ("cell", "whole", "why"),
    [
        (Cell(encoder_clip_seconds=None, encoder_machine=None), ("-", "80 ms", "20 ms", "-", "-"), "nobody measured"),
        (Cell(encoder_machine="b"), ("300 ms", "80 ms", "20 ms", "-", "-"), "several machines make no whole (b; a)"),
        (Cell(None, None, None, None, None), ("-",) * 5, "an earlier version of fastadasp"),
    ],
)
def test_what_is_not_known_is_not_guessed(cell: Cell, whole: tuple[str, ...], why: str) -> None:
    times = spent([(True, [cell]), (False, [cell])])
    assert texts(times[1], full=False) == whole
    assert why in why_unknown([cell, cell])


TIMED = {"encoder_clip_seconds": 0.3, "prefill_clip_seconds": 0.08, "decode_clip_seconds": 0.02}
WHERE = {"encoder_machine": "host: CPU", "machine": "host: CPU"}
LINES: Cells = [
    ("full", None, 0, result(100, **TIMED, **WHERE)),
    ("one", "flops=0.3", 0, result(0, **TIMED | {"prefill_clip_seconds": 0.06}, **WHERE)),
    ("two", "flops=0.3", 0, result(None)),
]


def test_the_table_of_times_in_a_page(tmp_path: Path) -> None:
    text = markdown_times(HEADING, entries(LINES))
    assert "| strategy | budget | encoder | prefill | decode | whole | saved |" in text
    assert "| full | - | 300 ms | 80 ms | 20 ms | 400 ms |  |" in text
    assert "| one | flops=0.3 | 300 ms | 60 ms | 20 ms | 380 ms | 5.0% |" in text
    assert "| two" not in text  # it failed
    assert "each its share of a batch (4 clips)" in text
    assert "on CPU; fastadasp bench measures" in text
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- compare-times -->\nold\n<!-- end -->\nb\n<!-- compare-table -->\nold\n<!-- end -->\nc\n")
    check_page(page)
    for _ in range(2):
        insert(page, COMPARISON, [(HEADING, entries(LINES))])
        filled = page.read_text()
        assert filled.startswith(f"a\n<!-- compare-times -->\n\n{text}\n<!-- end -->\nb\n<!-- compare-table -->\n\n**")
        assert filled.endswith("<!-- end -->\nc\n")
        assert "old" not in filled
    page.write_text("<!-- compare-times -->\nold\n")
    with pytest.raises(RunError, match="has no place for results"):
        check_page(page)


def test_the_encoders_time_is_kept_with_the_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTADASP_CACHE", str(tmp_path))
    loaded = load_model(str(model_path()), "cpu", "float32")
    examples = find_task("er").examples(3)
    made = [prepare(loaded, examples, 2, lambda _: None) for _ in range(2)]
    first, again = ([clips[str(e.audio), e.instruction] for e in examples] for clips in made)
    assert [clip.encoding for clip in again] == [clip.encoding for clip in first]
    assert all(clip.encoding is not None and clip.encoding.seconds > 0 for clip in first)
    cache = FeatureCache(loaded)
    cache.put(examples[0].audio, again[0].embeds[again[0].span_ids > 0], again[0].encoder)  # as an earlier version did
    assert cache.get(examples[0].audio) is not None
    assert cache.took(examples[0].audio) is None
    cache.put(examples[0].audio, again[0].embeds[again[0].span_ids > 0], again[0].encoder, (float("nan"), "a"))
    assert cache.took(examples[0].audio) is None


def test_folders_have_the_times_and_old_ones_none(tmp_path: Path) -> None:
    found = fastadasp.compare(["uniform"], output=tmp_path / "run", tasks=["er"], limit=2, budgets=[0.5])
    full, reduced = found.rows()
    parts = sum(reduced[f"{name}_clip_seconds"] for name in ("encoder", "prefill", "decode"))
    assert reduced["whole_clip_seconds"] == pytest.approx(parts)
    assert reduced["whole_saved"] == pytest.approx(1 - parts / full["whole_clip_seconds"])
    lines = (tmp_path / "run" / "times.jsonl").read_text().splitlines()
    assert all(getattr(Times.model_validate(parse_json(line)), name) for line in lines for name in CLIP_TIMES)
    assert "| uniform | 0.5 |" in (tmp_path / "run" / "times.md").read_text()
    for old in ("comparison", "study"):
        assert all(line.spent == Spent() for line in fastadasp.load_run(OLD / old).lines)


def test_the_encoders_attention_is_summed_up_where_a_recipe_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastadasp.inference import clips

    monkeypatch.setenv("FASTADASP_CACHE", str(tmp_path / "cache"))
    listened: list[int] = []
    real = clips.listening

    def counted(*given: object) -> object:
        listened.append(1)
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(clips, "listening", counted)
    for place, (name, times) in enumerate((("uniform", 0), ("vispruner", 1), ("vispruner", 1), ("uniform", 1))):
        found = fastadasp.compare([name], output=tmp_path / str(place), tasks=["er"], limit=2, budgets=[0.5])
        assert (found.status, len(listened)) == ("finished", times)
