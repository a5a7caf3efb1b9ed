"""Files are written in one step, and nothing is left of one that could not be written."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fastadasp.audio import keep_recording
from fastadasp.errors import DataError
from fastadasp.files import whole


def test_what_fails_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")

    def fail() -> None:
        with whole(file) as part:
            part.write_text("new, but not all of i")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_several_may_write_the_same_file(tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def write(text: str) -> None:
        with whole(tmp_path / "a.txt") as part:
            part.write_text(text)
            both.wait(20)

    threads = [threading.Thread(target=write, args=(text,)) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() in ("one", "two")


@pytest.mark.parametrize("name", ["x" * 255, "\u6f22" * 85])
def test_the_longest_name_that_a_file_can_have(name: str, tmp_path: Path) -> None:
    with whole(tmp_path / name) as part:
        part.write_text("there")
    assert (tmp_path / name).read_text() == "there"


def test_a_recording_that_cannot_be_kept_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(file: Path, *_: object, **__: object) -> None:
        file.write_bytes(b"fLaC")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(soundfile, "write", write)
    with pytest.raises(DataError, match="No space left on device; set FASTADASP_CACHE"):
        keep_recording(tmp_path / "a.flac", np.zeros(16), 16000)
    assert list(tmp_path.iterdir()) == []
