"""What is wrong with a copy of a benchmark is said in one sentence, with exit code 2, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmark_rows import write
from command import run

from fastadasp import DataError
from fastadasp.experiments.axes import find_task

pytestmark = pytest.mark.usefixtures("own_cache")

HOME = "clean/test/0000.parquet"


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    return pq.read_table(write(tmp_path / "whole", "librispeech") / HOME)


def put(folder: Path, table: pa.Table, *places: str) -> Path:
    for place in places or (HOME,):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / place)
    return folder


def change(table: pa.Table, column: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(column), column, values)


def third(table: pa.Table, cell: Any) -> pa.Table:
    """The table with another recording in its third row."""
    cells = table.column("audio").to_pylist()
    cells[2] = cell
    return change(table, "audio", pa.array(cells, type=table.schema.field("audio").type))


def latin() -> pa.Array:
    """A column that says it is text and is Latin-1."""
    found = pa.array(["cafés".encode("latin-1"), b"a", b"b", b"c", b"d"], type=pa.binary())
    return pa.Array.from_buffers(pa.string(), 5, found.buffers())


def told(folder: Path, out: Path) -> str:
    options = ("--strategies", "weighted", "--budgets", "0.5", "--output", str(out))
    code, said = run("compare", "--tasks", f"librispeech={folder}", *options)
    assert (code, said.count("\n"), said.startswith("error: "), out.exists()) == (2, 1, True, False), said
    return said


def test_columns_and_cells_that_cannot_be_used(table: pa.Table, tmp_path: Path) -> None:
    broken = {"bytes": b"RIFFnot a sound", "path": "x.flac"}
    cases = {
        "'text' is missing (or gt, reference); it has: file, audio, speaker_id, chapter_id, id (in": table.drop(
            ["text"]
        ),
        "'text' is missing (or gt, reference); it has: file, audio, texts, speaker_id, chapter_id, id. Did you mean "
        "'texts'?": table.rename_columns([c.replace("text", "texts") for c in table.column_names]),
        "'audio' is missing (or audio_filepath)": table.drop(["audio"]),
        "clip-2: ": third(table, broken),
        "there is no recording /nowhere/x.flac": third(table, {"bytes": None, "path": "/nowhere/x.flac"}),
        "row 3: 'audio' is empty": third(table, None),
        "row 1: a text is not UTF-8 (it has the byte 0xe9)": change(table, "text", latin()),
        "row 1: it holds bytes that are neither sound nor UTF-8 text": change(table, "text", latin().view(pa.binary())),
        "'text' is empty (in all 5 rows)": change(table, "text", pa.array([None] * 5, type=pa.string())),
    }
    for number, (message, content) in enumerate(cases.items()):
        assert message in told(put(tmp_path / str(number), content), tmp_path / "out"), message


def test_splits_and_configurations_that_are_not_there(table: pa.Table, tmp_path: Path) -> None:
    train = told(put(tmp_path / "a", table, "clean/train/0000.parquet"), tmp_path / "out")
    assert "has the split train, not 'test'. Name the folder of one, or a Parquet file, to take it" in train
    two = put(tmp_path / "b", table, "clean/test.clean/0000.parquet", "clean/train-00000-of-00001.parquet")
    assert "has the split train, not 'test'" in told(two, tmp_path / "out")
    other = told(put(tmp_path / "c", table, "cleen/test/0000.parquet", "other/test/0000.parquet"), tmp_path / "out")
    assert "has no folder called 'clean'. Did you mean 'cleen'? It has: cleen, other. Name the folder of one" in other
    # what is named is taken
    for place in ("a/clean/train", "a/clean/train/0000.parquet"):
        assert len(find_task(f"librispeech={tmp_path / place}").examples()) == 5


def test_files_that_are_no_parquet(table: pa.Table, tmp_path: Path) -> None:
    whole = (put(tmp_path / "whole2", table) / HOME).read_bytes()
    for content, message in ((b"PAR1 no", "smaller than the minimum"), (whole[:2000], "Parquet magic bytes not found")):
        path = tmp_path / "cut" / HOME
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        assert message in told(tmp_path / "cut", tmp_path / "out")
    with pytest.raises(DataError, match="there is no file or folder"):
        find_task(f"librispeech={tmp_path / 'nowhere'}").examples()
    none = told(put(tmp_path / "none", table.slice(0, 0)), tmp_path / "out")
    assert "cannot be read" in none or "holds no clips" in none
