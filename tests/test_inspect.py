"""The command inspect: pictures and pages of one recording."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command import run
from report_page import Page, recording


@pytest.mark.parametrize("kind", ["html", "png", "svg"])
def test_inspect_draws(kind: str, tmp_path: Path) -> None:
    output = tmp_path / f"t.{kind}"
    strategies = "weighted,prune,h2o"
    code, told = run("inspect", str(recording(tmp_path)), "--strategy", strategies, "--output", str(output))
    assert code == 0, told
    if kind != "html":
        assert output.stat().st_size > 5000
        return
    shown = Page(output.read_text())
    assert all(link.startswith(("#", "data:")) for link in shown.links)
    assert [line["name"] for line in shown.data["lines"]] == ["full", *strategies.split(",")]
    (clip,) = shown.data["clips"]
    assert set(clip["answers"]) == {"0", "1", "2", "3"}
    assert [len(one["layers"]) for _, _, one in shown.data["timelines"]] == [1, 1, 0]  # h2o takes keys, not tokens


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere.wav",), "there is no recording nowhere.wav"),
        (("text.wav",), "cannot be read as audio"),
        (("talk.mp3", "--strategy", "wieghted"), "weighted"),
        (("talk.mp3", "--strategy", ","), "names no strategy"),
        (("talk.mp3", "--budget", "1.5"), "1.5"),
        (("talk.mp3", "--output", "t.gif"), r"ends in '\.gif'"),
        (("talk.mp3", "--strategy", "fastadasp-sparse"), "chosen for a task"),
        (("talk.mp3", "--max-new-tokens", "0"), "at least 1, not 0"),
        (("talk.mp3", "--model", "no-such-folder/model"), "no-such-folder"),
    ],
)
def test_inspect_refuses(
    arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recording(tmp_path)
    (tmp_path / "text.wav").write_text("no sound")
    code, told = run("inspect", *arguments)
    assert code == 2, told
    assert re.search(words, told), told
    assert not list(tmp_path.glob("*.html"))
