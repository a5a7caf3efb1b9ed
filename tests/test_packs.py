"""Tasks of public benchmarks: each runs from five rows of a dataset as the hub stores it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
from benchmark_rows import FIXTURES, ROWS, SPEECH, TEXTS, write
from command import run

from fastadasp import DataError, ManifestTask, get_registry, testing
from fastadasp.experiments.axes import asked, find_task
from fastadasp.tasks.packs import FOLDER
from fastadasp.tasks.sources.address import EXPORT, Address, is_commit, read_address

pytestmark = pytest.mark.usefixtures("own_cache")
LISTS = ("audiomarathon", "audiomarathon-race", "audiomarathon-desed")
"""Tasks whose clips come as a JSON file beside recordings."""
FOLDERS = ("audiomarathon-asr", "audiomarathon-had")
"""Tasks whose clips come as a folder of recordings."""
PACKS = {path.stem for path in FOLDER.glob("*.toml")}


@pytest.mark.parametrize("name", FIXTURES)
def test_every_benchmark_runs_from_rows_of_the_hub(name: str, tmp_path: Path) -> None:
    task = find_task(f"{name}={write(tmp_path / 'copy', name)}")
    assert isinstance(task, ManifestTask)
    examples = task.examples()
    splits = read_address(str(task.home)).splits
    assert len(examples) == 5 * len(splits)
    assert len({example.id for example in examples}) == len(examples)
    for example, row in zip(examples, ROWS * len(splits), strict=True):
        assert soundfile.read(example.audio)[0].tolist() == soundfile.read(SPEECH / row["audio_filepath"])[0].tolist()
        assert "not what is asked" not in example.instruction
        assert "{" not in example.instruction
    references = [example.reference for example in examples]
    perfect = 0 if not task.higher_is_better else 100
    assert task.score(references, references)[task.metric] == pytest.approx(perfect)
    assert task.score([""] * len(references), references)[task.metric] == pytest.approx(100 - perfect)
    testing.check_task(task)


def test_what_some_of_them_ask(tmp_path: Path) -> None:
    def first(name: str) -> Any:
        return find_task(f"{name}={write(tmp_path / name, name)}").examples(1)[0]

    letters = "What is it, 0?\nA. a dog\nB. a cat\nC. birds"
    end = "Answer with the option's letter from the given choices directly."
    assert first("mmau").instruction == f"{letters}\n{end}"
    assert first("air-bench-music").instruction == f"{letters}\nD. rain\n\n{end}"
    assert first("voicebench-mmsu").instruction == ""
    assert first("voicebench-mmsu").tags == {"split": "biology"}
    assert first("librispeech").instruction.startswith("Please recognize the speech")
    assert first("mmau").tags == {"task": "sound", "difficulty": "easy"}


@pytest.mark.parametrize("name", LISTS)
def test_benchmarks_that_come_as_a_json_file(name: str, tmp_path: Path) -> None:
    texts = ["a dog", "a cat", "birds", "rain"]
    rows: list[dict[str, Any]] = []
    for i, row in enumerate(ROWS):
        shutil.copy(SPEECH / row["audio_filepath"], tmp_path)
        path, answer = row["audio_filepath"], "ABCDA"[i]
        if name == "audiomarathon":
            choices: dict[str, Any] = {f"choice_{x}": text for x, text in zip("abcd", texts, strict=True)}
        else:
            choices = (
                {"options": texts}
                if name == "audiomarathon-race"
                else {"choices": dict(zip("ABCD", texts, strict=True))}
            )
        keys = ("audio_path", "answer") if name == "audiomarathon-race" else ("path", "answer_gt")
        rows.append({keys[0]: path, "question": "What?", **choices, keys[1]: answer, "task_type": "event"})
    whole: Any = {"description": "d", "tasks": rows} if name == "audiomarathon-desed" else rows
    (tmp_path / "list.json").write_text(json.dumps(whole, indent=1))
    task = find_task(f"{name}={tmp_path / 'list.json'}")
    assert [example.reference[0] for example in task.examples()] == list("ABCDA")
    assert "What?\n\n" in task.examples()[0].instruction
    assert "A. a dog\nB. a cat\nC. birds\nD. rain" in task.examples()[0].instruction
    assert isinstance(task, ManifestTask)
    task.draws = False  # in the place of clips drawn for a limit, so that they are the first
    testing.check_task(task)
    with pytest.raises(DataError, match=r"give it some.*Hezep/AudioMarathon"):
        find_task(name).examples()


def test_benchmarks_that_come_as_a_folder(tmp_path: Path) -> None:
    for i, row in enumerate(ROWS):
        inside = tmp_path / "HAD" / ("real" if i % 2 else "fake")
        inside.mkdir(parents=True, exist_ok=True)
        shutil.copy(SPEECH / row["audio_filepath"], inside)
        chapter = tmp_path / "LibriSpeech" / "1089" / "134686"
        chapter.mkdir(parents=True, exist_ok=True)
        shutil.copy(SPEECH / row["audio_filepath"], chapter)
        (chapter / row["audio_filepath"]).with_suffix(".txt").write_text(row["text"])
    had: Any = find_task(f"audiomarathon-had={tmp_path / 'HAD'}")
    assert sorted(example.reference for example in had.examples()) == ["fake"] * 3 + ["real"] * 2
    assert had.score(["Fake.", "b"], ["fake", "real"])["no_answer"] == 50
    asr: Any = find_task(f"audiomarathon-asr={tmp_path / 'LibriSpeech'}")
    assert sorted(example.reference for example in asr.examples()) == sorted(TEXTS)
    for task in (had, asr):
        task.draws = False
        testing.check_task(task)
        with pytest.raises(DataError, match=r"give it some.*Hezep/AudioMarathon"):
            find_task(task.name).examples()


def test_every_benchmark_has_a_fixture_and_says_where_it_comes_from() -> None:
    assert set(FIXTURES) | set(LISTS) | set(FOLDERS) == PACKS
    installed = {entry.name: entry.value for entry in get_registry().entries("task")}
    for name in PACKS:
        task = installed[name]
        assert task.summary
        assert task.licence
        assert re.search(r"\b[0-9a-f]{7}\b|the hub's page", task.source), (
            name
        )  # a commit of the repository it was read in
        assert (task.home is None) == (name in LISTS + FOLDERS)
        revision = task.home and read_address(task.home).revision
        assert revision in (None, EXPORT) or is_commit(revision), name


def test_each_benchmark_has_a_row_in_the_documentation() -> None:
    page = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text(encoding="utf-8")
    section = page.split("\n## Public benchmarks\n")[1].split("\n## ")[0]
    rows = {line.split("|")[1].strip(" `"): line for line in section.splitlines() if line.startswith("| `")}
    assert set(rows) == PACKS
    for name, row in rows.items():
        task: Any = find_task(name)
        home = read_address(task.home) if task.home else Address("Hezep/AudioMarathon", splits=())
        split = "+".join(home.splits) if len(home.splits) < 3 else "12 subjects"
        pinned = f"`{home.revision[:7]}`" if is_commit(home.revision) else ""
        for part in (home.name, home.configuration or "", split, f"`{task.metric}`", task.licence, pinned):
            assert part in row, (name, part)


def test_the_listing_has_them_apart(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def names(*more: str) -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "fastadasp", "tasks", "--json", *more], capture_output=True, text=True, check=True
        )
        return list(json.loads(done.stdout))

    assert PACKS.isdisjoint(row["name"] for row in names())
    rows = {row["name"]: row for row in names("--pack")}
    assert set(rows) == PACKS
    assert rows["mmau"]["dataset"] == "lmms-lab-audio/mmau"
    assert (rows["mmau"]["split"], rows["mmau"]["configuration"], rows["mmau"]["groups"]) == (
        "test_mini",
        None,
        ["task"],
    )


def test_a_whole_comparison_on_a_benchmark(tmp_path: Path) -> None:
    """The embedded model knows digits only; its word error rate here is bad, and the table says whose it is."""
    folder, out = write(tmp_path / "copy", "librispeech"), tmp_path / "out"
    options = ("--strategies", "weighted", "--budgets", "0.5", "--output", str(out))
    code, told = run("compare", "--tasks", f"librispeech={folder}", *options)
    assert code == 0, told
    cells = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [cell["strategy"] for cell in cells] == ["full", "weighted"]
    assert all(cell["clips"] == 5 and cell["metrics"]["wer"] > 50 for cell in cells)
    table = (out / "table.md").read_text()
    assert "librispeech: LibriSpeech test-clean" in table
    assert "none of the questions that this model was trained for" in table
    assert "spoken English digits" in table
    prompt = json.loads((out / "run.json").read_text())["prompts"]["librispeech"]
    assert "Please recognize the speech and only output the recognized content:" in prompt


def test_recordings_and_a_list_stand_in_for_a_dataset(tmp_path: Path) -> None:
    found = find_task(f"librispeech={SPEECH / 'transcripts.jsonl'}").examples(2)
    assert [example.reference for example in found] == TEXTS[:2]  # as a copy of the hub: its first clips
    for row in ROWS:
        shutil.copy(SPEECH / row["audio_filepath"], tmp_path)
        (tmp_path / row["audio_filepath"]).with_suffix(".txt").write_text(row["text"])
    assert sorted(e.reference for e in find_task(f"librispeech={tmp_path}").examples()) == sorted(TEXTS)


def test_a_prompt_for_one_model() -> None:
    task: Any = find_task("librispeech")
    assert task.for_model(("Qwen/Qwen2-Audio-7B", "Qwen2-Audio-7B", "qwen2_audio")).instruction.endswith(" <|en|>")
    assert not task.for_model(
        ("Qwen/Qwen2-Audio-7B-Instruct", "Qwen2-Audio-7B-Instruct", "qwen2_audio")
    ).instruction.endswith(">")
    assert asked(task, None, "Hm?").instruction == "Hm?"  # type: ignore[attr-defined]
