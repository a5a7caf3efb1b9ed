"""Datasets of the hub, where a folder stands for the repository: what is downloaded, kept and refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmark_rows import JA, TEXTS, write
from command import run

import fastadasp
from fastadasp import DataError, ManifestTask
from fastadasp.experiments.axes import find_task, read_tasks
from fastadasp.tasks.definition import Definition
from fastadasp.tasks.sources import hub
from fastadasp.tasks.sources.address import EXPORT, Address, is_commit, read_address, split_task
from fastadasp.tasks.sources.copies import parquet_files
from fastadasp.tasks.sources.downloads import LARGE, asking, check_download

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = write(tmp_path / "home" / "speech", "librispeech")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: clean\n  data_files:\n  - split: test\n    path: clean/test/*\n"
        "  - split: train\n    path: clean/train/*\n---\n"
    )
    return folder


def test_only_the_files_of_a_split_are_downloaded(repository: Path, tmp_path: Path) -> None:
    rows = list(hub.rows(f"hf:{repository}:clean:test"))
    assert [row.values["text"] for row in rows] == TEXTS
    kept = list((tmp_path / "cache" / "datasets").rglob("*.arrow"))
    assert [path.name for path in kept] == ["speech-test.arrow"]


def test_with_a_limit_the_first_rows_are_streamed(repository: Path, tmp_path: Path) -> None:
    task = ManifestTask("mine", f"hf:{repository}:clean:test", kind="dense", metric="wer", instruction="x")
    assert [example.reference for example in task.examples(2)] == TEXTS[:2]
    assert len(list((tmp_path / "cache" / "recordings").iterdir())) == 2
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_what_is_cached_is_used_offline(repository: Path, tmp_path: Path) -> None:
    list(hub.rows(f"hf:{repository}:clean:test"))
    shutil.rmtree(repository)
    code = (
        "from fastadasp.tasks.sources import hub\n"
        "print(*(row.values['text'] for row in hub.rows('hf:speech:clean:test')), sep='|')"
    )
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=settings, cwd=tmp_path, check=False
    )
    assert done.stdout.strip() == "|".join(TEXTS), done.stderr[-2000:]


def test_faults_of_datasets(repository: Path) -> None:
    with pytest.raises(DataError, match="has the splits test, train, not 'dev'"):
        list(hub.rows(f"hf:{repository}:clean:dev"))
    with pytest.raises(DataError, match=r"has the splits test, train, not 'tets'. Did you mean 'test'"):
        list(hub.rows(f"hf:{repository}:clean:tets"))
    with pytest.raises(DataError, match=r"it has no configuration 'clea'. Did you mean 'clean'\? It has: clean"):
        list(hub.rows(f"hf:{repository}:clea:test"))
    for text in ("hf:", "hf:a:", "hf:a:b:c:d", "hf:a@:b", "hf:a:b+"):
        with pytest.raises(DataError, match=r"write hf:|joined by \+"):
            read_address(text)
    assert read_address("hf:a/b@main:c:d+e") == Address("a/b", "c", ("d", "e"), "main")


def test_large_downloads_are_asked_about(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_download("small", LARGE)
    asked_about: list[str] = []

    def answer(yes: bool) -> Any:
        return asking(lambda question: asked_about.append(question) or yes)

    for size, said in ((6_300_000_000, "of 6.3 GB"), (None, "of unknown size")):
        with pytest.raises(DataError, match=rf"large is a download {said}: --yes .* downloads it, --limit 100"):
            check_download("large", size)
        with answer(False), pytest.raises(DataError, match="NAME=FOLDER takes a copy"):
            check_download("large", size)
        with answer(True):
            check_download("large", size)
    assert asked_about[0] == "dataset large is a download of 6.3 GB. Download it?"
    monkeypatch.setattr("fastadasp.tasks.sources.downloads.LARGE", 1000)
    task = repository.parent / "t.toml"
    task.write_text(f'data = "hf:{repository}:clean:test"\nkind = "dense"\nmetric = "wer"\ninstruction = "x"\n')
    command = (
        "compare",
        "--tasks",
        str(task),
        "--strategies",
        "prune",
        "--budgets",
        "0.5",
        "--output",
        str(repository / "o"),
    )
    code, told = run(*command)
    assert code == 2
    assert "is a download of 0.0 GB: --yes" in told
    assert len(read_tasks([str(task)], 2)[1]["t"]) == 2  # the first clips need no leave
    code, told = run(*command, "--yes")
    assert code == 0, told


def test_large_downloads_and_prompts_in_python(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastadasp.tasks.sources.downloads.LARGE", 1000)
    task = repository.parent / "t.toml"
    task.write_text(f'data = "hf:{repository}:clean:test"\nkind = "dense"\nmetric = "wer"\ninstruction = "x"\n')
    given: dict[str, Any] = {"output": repository.parent / "out", "tasks": [str(task)], "budgets": [0.5]}
    with pytest.raises(DataError, match="in Python download=True"):
        fastadasp.compare(["prune"], **given)
    made = fastadasp.compare(["prune"], **given, download=True, prompt="Say what you hear.")
    assert made.status == "finished"
    assert "Say what you hear." in made.source.about.prompts["t"]


def test_which_files_of_a_copy_are_meant(tmp_path: Path) -> None:
    def place(*names: str) -> Path:
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        for name in names:
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"text": ["x"]}), path)
        return tmp_path / "set"

    def found(split: str, configuration: str | None, *names: str) -> list[str]:
        folder = place(*names)
        return [str(path.relative_to(folder)) for path in parquet_files(folder, split, configuration)]

    assert found("test", None, "a.parquet", "b.parquet") == ["a.parquet", "b.parquet"]
    assert found("test", None, "data/train-00000-of-00001.parquet") == ["data/train-00000-of-00001.parquet"]
    two = ("a/test-00000-of-00001.parquet", "a/train-00000-of-00001.parquet", "b/test-00000-of-00001.parquet")
    assert found("test", "a", *two) == ["a/test-00000-of-00001.parquet"]
    assert found("test", "c", "test/0000.parquet", "train/0000.parquet") == ["test/0000.parquet"]
    # Another configuration's files are not this one's, though they be the only ones.
    with pytest.raises(DataError, match=r"no folder called 'en_de'. Did you mean 'fr_de'\? It has: fr_de. Name"):
        found("test", "en_de", "fr_de/test-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"no folder called 'c'\. It has: a, b\. Name"):
        found("test", "c", *two)
    assert found("test", "c", "test.parquet", "a/test.parquet") == ["test.parquet"]
    assert found("test", "c", "data/test-00000-of-00001.parquet") == ["data/test-00000-of-00001.parquet"]
    assert found("test", "set", "part/test.parquet") == ["part/test.parquet"]  # the folder itself is called so
    with pytest.raises(DataError, match="in a, b; name one"):
        found("test", None, *two)
    with pytest.raises(DataError, match="has the splits test, train, not 'dev'"):
        found("dev", "a", *two)


def test_keys_of_public_benchmarks_are_those_of_task_files() -> None:
    assert {"licence", "source"} <= set(Definition.model_fields)


# Revisions


def test_a_branch_of_parquet_copies_has_its_configurations_in_folders(tmp_path: Path) -> None:
    folder = write(tmp_path / "home" / "fleurs", "fleurs-ja")
    rows = list(hub.rows(f"hf:{folder}@{EXPORT}:ja_jp:test"))
    assert [row.values["transcription"] for row in rows] == JA
    assert [row.values["transcription"] for row in hub.rows(f"hf:{folder}@{EXPORT}:ja_jp:test", 2)][:2] == JA[:2]


def test_a_revision_is_pinned_by_the_name_of_a_task() -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert split_task("a@b=c=d@e") == ("a", "b", "c=d@e")
    assert split_task("mine@home/mood.toml") == ("mine@home/mood.toml", "", "")
    assert split_task("a=hf:b@c") == ("a", "", "hf:b@c")
    task: Any = find_task(f"mmau@{commit}")
    assert (task.name, task.manifest) == ("mmau", f"hf:lmms-lab-audio/mmau@{commit}:test_mini")
    pinned: Any = find_task(f"librispeech@{commit}")
    assert read_address(pinned.home).revision == read_address(pinned._calibration).revision == commit
    assert is_commit(read_address(find_task("librispeech").home).revision)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="task 'asr' has no dataset of the hub to take the revision 'main' of"):
        find_task("asr@main")


def test_the_commit_that_was_read_stands_in_the_run(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    task = repository.parent / "t.toml"
    task.write_text(f'data = "hf:{repository}:clean:test"\nkind = "dense"\nmetric = "wer"\ninstruction = "x"\n')
    made = fastadasp.compare(["prune"], output=repository.parent / "a", tasks=[str(task)], budgets=[0.5], limit=1)
    assert made.source.about.facts["t"].revision is None  # a folder has none
    builder = type("Builder", (), {"hash": commit, "cache_dir": "/x/speech/clean/0.0.0/y"})
    assert hub._commit(builder) == commit
    builder = type("Builder", (), {"hash": "y", "cache_dir": f"/x/speech/clean/0.0.0/{commit}"})
    assert hub._commit(builder) == commit  # as the hub's cache names it
    monkeypatch.setattr(hub, "_commit", lambda builder: commit)
    made = fastadasp.compare(["prune"], output=repository.parent / "b", tasks=[str(task)], budgets=[0.5], limit=1)
    assert made.source.about.facts["t"].revision == commit
