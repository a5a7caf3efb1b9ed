"""Tasks of public benchmarks: each runs from five rows of a dataset as the hub stores it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from command import run
from datasets import Audio, ClassLabel, Features, Value

import fastadasp
from fastadasp import DataError, ManifestTask, get_registry, testing
from fastadasp.experiments.axes import asked, find_task, read_tasks
from fastadasp.tasks.definition import Definition
from fastadasp.tasks.packs import FOLDER
from fastadasp.tasks.sources import hub
from fastadasp.tasks.sources.address import EXPORT, Address, is_commit, read_address, split_task
from fastadasp.tasks.sources.copies import parquet_files
from fastadasp.tasks.sources.downloads import LARGE, asking, check_download

SPEECH = Path(__file__).parent / "fixtures" / "librispeech"
ROWS = [json.loads(line) for line in (SPEECH / "transcripts.jsonl").read_text().splitlines()]
TEXTS = [row["text"] for row in ROWS]
JA = ["今日は天気がいいです", "音楽を聞いています", "彼らは京都に行きました", "窓を開けてください", "これは本です"]
ZH = ["今天天气很好", "我在听音乐", "他们去了北京", "请打开窗户", "这是一本书"]
TEXT, WHOLE, REAL, SOUND = Value("string"), Value("int64"), Value("float64"), Audio(sampling_rate=16_000)
OPENSLR = {"file": TEXT, "audio": SOUND, "text": TEXT, "speaker_id": WHOLE, "chapter_id": WHOLE, "id": TEXT}
FLEURS = {"id": Value("int32"), "num_samples": Value("int32"), "path": TEXT, "audio": SOUND, "transcription": TEXT}
FLEURS |= {
    "raw_transcription": TEXT,
    "gender": ClassLabel(names=["male", "female", "other"]),
    "lang_id": WHOLE,
    "language": TEXT,
}
AUDIOBENCH = {"context": SOUND, "instruction": TEXT, "answer": TEXT}
MMAU = {
    "id": TEXT,
    "audio": Audio(sampling_rate=192_000),
    "question": TEXT,
    "choices": TEXT,
    "answer": TEXT,
    "dataset": TEXT,
}
MMAU |= {"task": TEXT, "split": TEXT, "category": TEXT, "sub-category": TEXT, "difficulty": TEXT}
AIR = {"path": TEXT, "question": TEXT, **{f"choice_{x}": TEXT for x in "abcd"}, "answer_gt": TEXT, "task_name": TEXT}
AIR |= {"dataset_name": TEXT, "uniq_id": WHOLE, "audio": SOUND}
ESB = {"audio": SOUND, "dataset": TEXT, "text": TEXT, "id": TEXT, "audio_length_s": REAL}
VOICE = {"audio": SOUND, "prompt": TEXT, "reference": TEXT}
FIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "librispeech": ("clean/test/0000.parquet", OPENSLR),
    "librispeech-other": ("other/test/0000.parquet", OPENSLR),
    "librispeech-long": ("data/test_clean-00000-of-00001.parquet", {"audio": SOUND, "transcript": TEXT}),
    "librispeech-long-other": ("data/test_other-00000-of-00001.parquet", {"audio": SOUND, "transcript": TEXT}),
    "fleurs-en": ("en_us/test-00000-of-00001.parquet", FLEURS),
    "fleurs-zh": ("cmn_hans_cn/test-00000-of-00001.parquet", FLEURS),
    "fleurs-yue": ("yue_hant_hk/test-00000-of-00001.parquet", FLEURS),
    **{
        f"fleurs-{language}": (f"{folder}/test/0000.parquet", FLEURS)
        for language, folder in {
            "ja": "ja_jp",
            "de": "de_de",
            "fr": "fr_fr",
            "es": "es_419",
            "it": "it_it",
            "pt": "pt_br",
        }.items()
    },
    "covost2-en-zh": (
        "en_zh/test-00000-of-00001.parquet",
        {"client_id": TEXT, "file": TEXT, "audio": SOUND, "sentence": TEXT, "translation": TEXT, "id": TEXT},
    ),
    "covost2-zh-en": (
        "zh_en/test-00000-of-00001.parquet",
        {"audio": SOUND, "prompt": TEXT, "gt": TEXT, "source": TEXT},
    ),
    "iemocap": ("data/test-00000-of-00001.parquet", AUDIOBENCH),
    "meld": ("data/test-00000-of-00001.parquet", AUDIOBENCH),
    "mmau": ("data/test_mini-00000-of-00001.parquet", MMAU),
    **{
        f"air-bench-{part}": (f"Foundation/{part}-00000-of-00001.parquet", AIR) for part in ("speech", "sound", "music")
    },
    "voicebench-mmsu": ("mmsu/{split}-00000-of-00001.parquet", VOICE),
    "voicebench-openbookqa": ("openbookqa/test-00000-of-00001.parquet", VOICE),
    "open-asr-librispeech-clean": ("librispeech/test.clean-00000-of-00001.parquet", ESB),
    "open-asr-librispeech-other": ("librispeech/test.other-00000-of-00001.parquet", ESB),
    "open-asr-ami": ("ami_cleaned/test-00000-of-00001.parquet", ESB),
    "open-asr-gigaspeech": ("gigaspeech_cleaned/test-00000-of-00001.parquet", ESB),
    "open-asr-voxpopuli": ("voxpopuli_cleaned_aa/test-00000-of-00001.parquet", ESB),
    "open-asr-spgispeech": ("spgispeech/test-00000-of-00001.parquet", ESB),
    **{
        f"open-asr-{part.replace('_', '-')}": (f"{part}/test-00000-of-00001.parquet", ESB)
        for part in ("earnings22", "tedlium", "common_voice")
    },
}
"""Of each task with a dataset on the hub: where its Parquet lies in the repository, and its columns."""
LISTS = ("audiomarathon", "audiomarathon-race", "audiomarathon-desed")
"""Tasks whose clips come as a JSON file beside recordings."""
FOLDERS = ("audiomarathon-asr", "audiomarathon-had")
"""Tasks whose clips come as a folder of recordings."""
PACKS = {path.stem for path in FOLDER.glob("*.toml")}


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTADASP_CACHE", str(tmp_path / "cache"))


def value(name: str, kind: Any, task: str, i: int) -> Any:
    """What stands in a column of row `i`."""
    if isinstance(kind, Audio):
        return {"bytes": (SPEECH / ROWS[i]["audio_filepath"]).read_bytes(), "path": ROWS[i]["audio_filepath"]}
    chinese = task in ("fleurs-zh", "fleurs-yue") or (task == "covost2-en-zh" and name == "translation")
    answers = {
        "choices": json.dumps(["a dog", "(B) a cat", "birds"]),
        "answer": ["a dog", "(B) a cat", "birds", "a cat", "a dog"][i] if task == "mmau" else find_label(task, i),
        "answer_gt": ["a dog", "a cat", "birds", "a cat", "a dog"][i],
        "reference": "ABCDA"[i],
        **{"choice_a": "a dog", "choice_b": "a cat", "choice_c": "birds", "choice_d": None if i % 2 else "rain"},
        **{"task": ["sound", "music"][i % 2], "task_name": ["age", "mood"][i % 2], "difficulty": "easy"},
        **{"path": ROWS[i]["audio_filepath"], "file": ROWS[i]["audio_filepath"], "question": f"What is it, {i}?"},
        **dict.fromkeys(("prompt", "instruction"), "not what is asked"),
    }
    if name in answers:
        return answers[name]
    if name == "id":
        return i // 2 if task.startswith("fleurs") else f"clip-{i}"  # a sentence of FLEURS has several speakers
    if isinstance(kind, ClassLabel):
        return i % 2
    if kind == TEXT:
        return (ZH if chinese else JA if task == "fleurs-ja" else TEXTS)[i]
    return i


def find_label(task: str, i: int) -> str:
    labels = find_task(task).labels  # type: ignore[attr-defined]
    return str(labels[i % len(labels)]) if labels else ""


def write(folder: Path, task: str) -> Path:
    """Five rows of a benchmark, as a copy of its repository, with other splits and configurations beside them."""
    where, columns = FIXTURES[task]
    rows = {name: [value(name, kind, task, i) for i in range(5)] for name, kind in columns.items()}
    made = datasets.Dataset.from_dict(rows).cast(Features(columns))
    splits = read_address(str(find_task(task).home)).splits  # type: ignore[attr-defined]
    for split in splits:
        path = folder / where.format(split=split)
        path.parent.mkdir(parents=True, exist_ok=True)
        made.to_parquet(path)
    if task.startswith("fleurs"):
        for other in ("xx_xx", "yy_yy"):  # other languages
            shutil.copytree(path.parent.parent if path.stem == "0000" else path.parent, folder / other)
    last = path.name if path.stem == "0000" else f"train-{path.name.partition('-')[2]}"
    beside = path.parent.parent / "train" / last if path.stem == "0000" else path.with_name(last)
    beside.parent.mkdir(exist_ok=True)
    made.select([0]).to_parquet(beside)
    return folder


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


# Datasets of the hub: a folder stands for the repository, as the package `datasets` allows


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
