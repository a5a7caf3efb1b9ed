"""Tables and folders as people have them: no row is lost or swallowed, and what is left out is said."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from fastadasp.errors import DataError, FastAdaSPError
from fastadasp.experiments.axes import find_task
from fastadasp.recipes.reading import read_toml
from fastadasp.tasks.definition import read_task
from fastadasp.tasks.sources import Row, read_rows


def sentences(source: Path, column: str = "sentence") -> list[str]:
    rows = list(read_rows(source))
    assert all(isinstance(row, Row) for row in rows), rows
    return [str(row.values[column]) for row in rows if isinstance(row, Row)]


@pytest.mark.parametrize(
    "texts",
    [
        ['"Six," he said, two', "one two three", "four"],
        ['"six two', "one two", 'three"', "four"],
        ['"six two"', "one"],
        ['say "ah"', '"'],
        ['""Six"" two', "one"],
    ],
)
def test_quotation_marks_in_an_unquoted_tsv_are_text(texts: list[str], tmp_path: Path) -> None:
    table = tmp_path / "test.tsv"
    table.write_text("client_id\tpath\tsentence\n" + "".join(f"x\tc{i}.mp3\t{s}\n" for i, s in enumerate(texts)))
    assert sentences(table) == texts


@pytest.mark.parametrize("texts", [['"Six," he said', "one"], ["a\ttab", "plain", 'a "word"']])
def test_a_quoted_tsv_is_read_as_it_was_written(texts: list[str], tmp_path: Path) -> None:
    table = tmp_path / "test.tsv"
    with table.open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([["path", "sentence"], *(["a.wav", text] for text in texts)])
    assert sentences(table) == texts


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_line_separators_of_unicode_are_text(sign: str, tmp_path: Path) -> None:
    rows = [{"audio_filepath": "a.wav", "sentence": f"one{sign}two"}, {"audio_filepath": "b.wav", "sentence": "three"}]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows).replace("\\u000b", sign))
    if sign in "\x0b\x1c":
        manifest.write_text("\n".join(json.dumps(row) for row in rows))
    assert sentences(manifest) == [f"one{sign}two", "three"]


def test_one_array_of_objects(tmp_path: Path) -> None:
    manifest = tmp_path / "m.JSON"
    manifest.write_text(json.dumps([{"sentence": "one"}, {"sentence": "two"}], indent=2))
    assert sentences(manifest) == ["one", "two"]


@pytest.mark.parametrize("name", ["X.CSV", "x.csv"])
def test_semicolons_and_capitals(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('path;sentence\na.wav;"one; two, three"\nb.wav;four\n')
    assert sentences(tmp_path / name) == ["one; two, three", "four"]


def test_a_folder_from_a_mac(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "a.txt").write_text("six two")
    (tmp_path / "._a.wav").write_bytes(b"\0\5\26\7")
    (tmp_path / "b.m4a").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"left out: b\.m4a"):
        assert sentences(tmp_path, "reference") == ["six two"]


def test_a_recording_whose_name_is_no_text_is_a_fault_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    try:
        (tmp_path / os.fsdecode(b"\xff.wav")).write_bytes(b"RIFF")
    except OSError:
        pytest.skip("this file system has names in UTF-8 alone")
    first, second = read_rows(tmp_path)
    assert isinstance(first, Row)
    assert "'audio_filepath' holds bytes that are not UTF-8" in str(second)
    str(second).encode()


def test_a_folder_of_unheard_recordings_says_so(tmp_path: Path) -> None:
    (tmp_path / "b.m4a").write_bytes(b"x")
    with pytest.raises(DataError, match=r"b\.m4a.*convert"):
        list(read_rows(tmp_path))


DEEP = "[" * 50_000
HOSTILE_ROWS = {
    "deep": DEEP + "]" * 50_000,
    "deep object": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "digits": '{"id": ' + "9" * 5000 + "}",
    "surrogate": '{"sentence": "\\ud800"}',
    "surrogate in a name": '{"\\udfff": "x"}',
    "no object": "3",
    "no JSON": "{",
}


@pytest.mark.parametrize("name", HOSTILE_ROWS)
def test_hostile_rows_are_faults_of_their_own(name: str, tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"sentence": "one"}\n' + HOSTILE_ROWS[name] + "\n")
    first, second = read_rows(manifest)
    assert isinstance(first, Row)
    assert isinstance(second, DataError)
    assert len(str(second)) < 1000
    str(second).encode()


HOSTILE_TOML = {
    "deep": "a = " + DEEP + "]" * 50_000,
    "digits": "a = " + "9" * 5000,
    "many parts": ".".join("a" * 50_000) + " = 1",
}


@pytest.mark.parametrize("name", HOSTILE_TOML)
@pytest.mark.parametrize("reader", [read_task, read_toml])
def test_hostile_toml_is_refused(name: str, reader: object, tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text(HOSTILE_TOML[name])
    with pytest.raises(FastAdaSPError, match="valid TOML"):
        reader(file)  # type: ignore[operator]


@pytest.mark.parametrize("reader", [read_task, read_toml])
@pytest.mark.parametrize("kind", ["pipe", "link to a device", "folder"])
def test_what_never_ends_is_not_read(reader: object, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to("/dev/zero")
    with pytest.raises(FastAdaSPError, match="cannot be read"):
        reader(file)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_a_pipe_is_no_table(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="pipe"):
        list(read_rows(tmp_path / name))


def test_a_limit_of_a_sorted_list_is_spread_over_the_labels(tmp_path: Path) -> None:
    labels = [label for label in ("angry", "happy", "sad") for _ in range(20)]
    rows = "".join(f"clip{i}.wav,{label}\n" for i, label in enumerate(labels))
    (tmp_path / "list.csv").write_text(f"audio,label\n{rows}")
    task = find_task(f"classification={tmp_path / 'list.csv'}")
    found = task.read(9)
    assert sorted(example.reference for example in found.examples) == ["angry"] * 3 + ["happy"] * 3 + ["sad"] * 3
    assert found.note == "task 'classification': 9 of 60 clips, drawn with a fixed seed; 3 references"
    assert found.examples == task.read(9).examples
    assert len(task.read(60).examples) == 60
    assert task.read(60).note == ""
