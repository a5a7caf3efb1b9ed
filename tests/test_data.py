"""Clips of one's own: every source gives the same task, bad rows are named, metrics and normalisers keep their word."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import torch
from command import run
from scipy.optimize import brentq

from fastadasp import DataError, ManifestTask
from fastadasp.demo import data_path, model_path
from fastadasp.experiments.axes import find_task, read_tasks
from fastadasp.inference import features
from fastadasp.inference.clips import batches, prepare
from fastadasp.inference.load import load_model
from fastadasp.inference.runner import choose
from fastadasp.tasks.definition import Definition
from fastadasp.tasks.metrics import METRICS, equal_error_rate
from fastadasp.tasks.normalisers import NORMALISERS
from fastadasp.tasks.sources.row import COLUMNS

DOCS = Path(__file__).parent.parent / "docs"
WORDS = ["two one four", "nine", "three three"]


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three recordings, and nothing else; the cache is its own."""
    monkeypatch.setenv("FASTADASP_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "clips"
    folder.mkdir()
    for number, source in enumerate(sorted(data_path().glob("audio/number-*.ogg"))[:3]):
        wave, rate = soundfile.read(source)
        soundfile.write(folder / f"a{number}.wav", wave[:rate], rate)
    return folder


def table(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    """The rows as a file, by its ending."""
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        comma = {".csv": ",", ".tsv": "\t"}[path.suffix]
        lines = [
            comma.join(rows[0]),
            *(comma.join(f'"{v}"' if comma == "," else str(v) for v in r.values()) for r in rows),
        ]
        path.write_text("\n".join(lines) + "\n")
    return path


def rows(folder: Path, audio: str = "audio_filepath", reference: str = "text") -> list[dict[str, Any]]:
    return [{audio: f"a{i}.wav", reference: text, "speaker": f"s{i}"} for i, text in enumerate(WORDS)]


def source(folder: Path, kind: str) -> str:
    """The three clips as a source of a kind."""
    if kind in (".jsonl", ".csv", ".tsv"):
        return str(table(folder, f"clips{kind}", rows(folder)))
    if kind == "texts":
        for number, text in enumerate(WORDS):
            (folder / f"a{number}.txt").write_text(text + "\n")
    elif kind == "librispeech":
        (folder / "a.trans.txt").write_text("".join(f"a{i} {text}\n" for i, text in enumerate(WORDS)))
    elif kind == "metadata":
        table(folder, "metadata.csv", rows(folder, "file_name", "transcription"))
    else:
        found = [{"audio": str(folder / r["audio_filepath"]), "sentence": r["text"], "kind": 1} for r in rows(folder)]
        made = datasets.Dataset.from_list(found).cast_column("audio", datasets.Audio())
        made = made.cast_column("kind", datasets.ClassLabel(names=["no", "yes"]))
        if kind == "parquet":
            (folder / "set").mkdir()
            made.to_parquet(folder / "set" / "part.parquet")
        elif kind == "splits":
            datasets.DatasetDict({"train": made, "test": made}).save_to_disk(folder / "set")
        else:
            made.save_to_disk(folder / "set")
        return str(folder / "set")
    return str(folder)


KINDS = (".jsonl", ".csv", ".tsv", "texts", "librispeech", "metadata", "saved", "splits", "parquet")


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_same_clips(kind: str, clips: Path) -> None:
    task = find_task(f"transcription={source(clips, kind)}")
    found = task.examples()
    assert [example.reference for example in found] == WORDS
    assert len({example.id for example in found}) == 3
    for number, example in enumerate(found):
        sound, truth = soundfile.read(example.audio)[0], soundfile.read(clips / f"a{number}.wav")[0]
        assert np.array_equal(sound, truth)
        assert example.instruction == "Transcribe the speech into text."
    drawn = task.examples(2)
    assert len(drawn) == 2
    assert drawn == [example for example in found if example in drawn] == task.examples(2)
    if kind in ("saved", "splits"):
        assert {example.tags["kind"] for example in found} == {"yes"}


@pytest.mark.parametrize("meaning", COLUMNS)
def test_columns_go_by_their_usual_names(meaning: str, clips: Path) -> None:
    for name in COLUMNS[meaning]:
        row = {"audio": "a0.wav", "second": "a1.wav", "reference": "yes", "question": "same?", "id": "x"}
        row[name] = row.pop(meaning)
        (example,) = find_task(f"sv={table(clips, 'one.jsonl', [row])}").examples()
        assert (example.reference, example.id) == ("yes", "x")
        assert not example.tags


def test_a_table_may_hold_transcripts_translations_and_labels(clips: Path) -> None:
    row = {"audio": "a0.wav", "text": "guten Tag", "translation": "good day", "emotion": "happy"}
    path = table(clips, "all.csv", [row])
    wanted = {"transcription": "guten Tag", "translation": "good day", "classification": "happy", "er": "happy"}
    assert {name: find_task(f"{name}={path}").examples()[0].reference for name in wanted} == wanted


def test_a_pair_is_heard_one_after_the_other(clips: Path) -> None:
    pairs = [
        {"audio": "a0.wav", "second": "a1.wav", "label": "yes"},
        {"audio": "a0.wav", "second": "a2.wav", "label": "no"},
    ]
    found = find_task(f"sv={table(clips, 'pairs.csv', pairs)}").examples()
    wave, rate = soundfile.read(found[0].audio)
    assert rate == 16_000
    assert len(wave) == 16_000 * 2.5
    assert np.abs(wave[17_000:23_000]).max() == 0
    assert found[0].audio != found[1].audio


@pytest.mark.parametrize("letters", ["ab", "\u58f0\u97f3"])
def test_pairs_are_told_apart_whatever_their_names(letters: str, clips: Path) -> None:
    """Two pairs of the same long names in different folders, also in letters of several bytes."""
    rows = []
    for number in range(2):
        names = [f"{number}/{letter * 70}.wav" for letter in letters]
        for name in names:
            (clips / name).parent.mkdir(exist_ok=True)
            shutil.copy(clips / f"a{number}.wav", clips / name)
        rows.append({"id": str(number), "audio": names[0], "second": names[1], "label": "yes"})
    first, second = find_task(f"sv={table(clips, 'long.csv', rows)}").examples()
    assert first.audio != second.audio
    assert not np.array_equal(soundfile.read(first.audio)[0], soundfile.read(second.audio)[0])


def test_places_of_an_instruction_are_filled(clips: Path) -> None:
    path = table(clips, "clips.csv", [r | {"question": f"What by {r['speaker']}?"} for r in rows(clips)])
    assert find_task(f"qa={path}").examples()[1].instruction == "What by s1?"
    assert "nine, three three, two one four" in find_task(f"classification={path}").examples(1)[0].instruction
    task = ManifestTask("own", path, kind="sparse", metric="f1", instruction="Is it {speaker}?")
    assert [example.instruction for example in task.examples()] == [f"Is it s{i}?" for i in range(3)]


def test_a_task_from_a_file(clips: Path) -> None:
    table(clips, "clips.tsv", [row | {"mood": "yes" if i else "no"} for i, row in enumerate(rows(clips))])
    (clips / "mood.toml").write_text(
        'data = "clips.tsv"\nkind = "sparse"\nmetric = "f1"\ninstruction = "One of: {labels}"\n'
        'max_new_tokens = 3\nnormaliser = "none"\ncolumns = { reference = "mood" }\nwhere = { speaker = "s1" }\n'
    )
    task = find_task(str(clips / "mood.toml"))
    assert (task.name, task.kind, task.metric, task.max_new_tokens) == ("mood", "sparse", "f1", 3)
    (example,) = task.examples()
    assert (example.reference, example.instruction) == ("yes", "One of: no, yes")
    assert find_task(f"{clips / 'mood.toml'}={clips / 'clips.tsv'}").examples()[0].reference == "no"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind = 'dense'", "instruction"),
        ("kind = 'sparce'\nmetric = 'f1'\ninstruction = ''", "sparse"),
        ("knd = 'dense'\nmetric = 'wer'\ninstruction = ''\nkind = 'dense'", "kind"),
        ("kind = 'dense'\nmetric = 'wre'\ninstruction = ''", r"metric is one of .* not 'wre'.*wer"),
        ("kind = 'dense'\nmetric = 'wer'\ninstruction = ''\nnormaliser = 'whisper'", "whisper-en"),
        ("kind = 'dense'\nmetric = 'wer'\ninstruction = ''\ncolumns = { adio = 'x' }", "audio"),
        ("kind = ", "not valid TOML"),
        ("name = 'A B'\nkind = 'dense'\nmetric = 'wer'\ninstruction = ''", "name"),
    ],
)
def test_faults_of_a_task_file(text: str, words: str, clips: Path) -> None:
    (clips / "t.toml").write_text(text)
    with pytest.raises(DataError, match=f"(?s){words}"):
        find_task(str(clips / "t.toml"))


def spoil(folder: Path, kind: str) -> str:
    """A source with one thing wrong."""
    path = folder / "bad.jsonl"
    good = rows(folder)
    if kind == "no column":
        return str(table(folder, "bad.csv", [{"sound": "a0.wav", "text": "x"}]))
    if kind == "no reference":
        return str(table(folder, "bad.csv", [{"audio": "a0.wav", "speaker": "x"}]))
    if kind == "empty reference":
        good[1]["text"] = ""
    elif kind == "no recording":
        good[1]["audio_filepath"] = "nowhere.wav"
    elif kind == "no sound":
        (folder / "a1.wav").write_text("text")
    elif kind == "empty sound":
        soundfile.write(folder / "a1.wav", np.zeros(0), 16_000)
    elif kind == "id twice":
        good = [row | {"id": "same"} for row in good]
    elif kind == "offset":
        good[1]["offset"] = 0.5
    elif kind == "fields":
        (folder / "bad.csv").write_text("audio,text\na0.wav,one, two\n")
        return str(folder / "bad.csv")
    elif kind == "columns twice":
        (folder / "bad.csv").write_text("audio,text,text\na0.wav,one,two\n")
        return str(folder / "bad.csv")
    elif kind == "empty table":
        (folder / "bad.csv").write_text("")
        return str(folder / "bad.csv")
    elif kind == "no rows":
        (folder / "bad.csv").write_text("audio,text\n")
        return str(folder / "bad.csv")
    elif kind == "encoding":
        (folder / "bad.csv").write_bytes("audio,text\na0.wav,größe\n".encode("latin-1"))
        return str(folder / "bad.csv")
    elif kind == "ending":
        (folder / "bad.xlsx").write_text("x")
        return str(folder / "bad.xlsx")
    elif kind == "empty folder":
        (folder / "empty").mkdir()
        return str(folder / "empty")
    elif kind == "nothing":
        return str(folder / "nothing")
    elif kind == "hub":
        return "hf:nobody/no-such-dataset-at-all"
    elif kind == "hub text":
        return "hf:a:b:c:d"
    elif kind == "split":
        made = datasets.Dataset.from_list([{"audio": "a", "text": "b"}])
        datasets.DatasetDict({"train": made}).save_to_disk(folder / "set")
        return str(folder / "set")
    text = "".join(json.dumps(row) + "\n" for row in good)
    path.write_text(text.replace('"a1.wav"', "a1.wav") if kind == "no json" else text)
    return str(path)


FAULTS = {
    "no column": r"line 2: 'audio_filepath' is missing \(or audio, path.*it has: sound, text",
    "no reference": r"'reference' is missing .* it has: audio, speaker",
    "empty reference": r"line 2: 'text' is empty",
    "no recording": r"there is no recording .*nowhere\.wav",
    "no sound": r"a1\.wav cannot be read as audio",
    "empty sound": r"a1\.wav is empty",
    "id twice": r"2 rows cannot be used .*id 'same' is that of .*line 1, too",
    "offset": r"line 2: it begins at an offset inside a1\.wav",
    "no json": r"line 2: not valid JSON",
    "fields": r"line 2: 3 fields under 2 columns; quote",
    "columns twice": r"more than one column 'text'",
    "empty table": r"is empty: its first line names the columns",
    "no rows": r"holds no clips for it",
    "encoding": r"is not UTF-8 text",
    "ending": r"bad\.xlsx: clips come from a JSONL manifest",
    "empty folder": r"holds no recordings",
    "nothing": r"there is no file or folder",
    "hub": r"dataset hf:nobody/no-such-dataset-at-all cannot be had",
    "hub text": r"write hf:ID, hf:ID:SPLIT",
    "split": r"has the splits train; name one",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_is_wrong_is_said_before_anything_runs(
    kind: str, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    code, told = run("compare", "--tasks", f"transcription={spoil(clips, kind)}", "--output", str(tmp_path / "out"))
    assert code == 2, told
    assert re.search(FAULTS[kind], " ".join(told.split())), told
    assert told.count("error:") == 1
    assert not (tmp_path / "out").exists()


def test_the_package_datasets_is_named_where_it_is_missing(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'fastadasp\[datasets\]'"):
        find_task("transcription=hf:some/thing").examples()


def test_ten_faults_are_listed_and_the_rest_counted(clips: Path) -> None:
    path = table(clips, "bad.jsonl", [{"audio": f"x{i}.wav", "text": "x"} for i in range(14)])
    with pytest.raises(DataError) as caught:
        read_tasks([f"transcription={path}"], None)
    assert str(caught.value).count("there is no recording") == 10
    assert str(caught.value).endswith("and 4 more")


@pytest.mark.parametrize("command", ["compare", "ablate"])
def test_bad_rows_are_left_out_when_asked(command: str, clips: Path, tmp_path: Path) -> None:
    path, out = spoil(clips, "no recording"), tmp_path / "out"
    options = ("--tasks", f"asr={path}", "--strategies", "weighted", "--budgets", "0.5", "--skip-bad")
    code, told = run(command, *options, "--output", str(out))
    assert code == 0, told
    assert re.search(r"task 'asr': left out: .*nowhere\.wav", told)
    cells = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {cell["clips"] for cell in cells} == {2}
    every = str(table(clips, "all.jsonl", [{"audio": "x.wav", "text": "x"}]))
    code, told = run(command, "--tasks", f"asr={every}", "--skip-bad", "--output", str(tmp_path / "none"))
    assert code == 2
    assert "none of its 1 rows can be used" in told


def test_pairs_are_scored_by_the_odds_of_yes(clips: Path, tmp_path: Path) -> None:
    pairs = [
        {"audio": f"a{i}.wav", "second": f"a{j}.wav", "label": "yes" if i == j else "no"}
        for i in range(3)
        for j in (0, 1)
    ]
    out = tmp_path / "out"
    options = ("--strategies", "weighted", "--budgets", "0.5", "--output", str(out))
    code, told = run("compare", "--tasks", f"sv={table(clips, 'pairs.csv', pairs)}", *options)
    assert code == 0, told
    answers = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    scores = [float(answer["prediction"]) for answer in answers if answer["strategy"] == "full"]
    assert len(set(scores)) > 3
    assert all(0 < score < 1 for score in scores)
    cell = json.loads((out / "results.jsonl").read_text().splitlines()[0])
    assert cell["metrics"] == equal_error_rate([str(s) for s in scores], [pair["label"] for pair in pairs])


def test_choices_are_the_softmax_over_two_answers() -> None:
    loaded = load_model(str(model_path()))
    vocabulary = loaded.processor.tokenizer
    one, two = (vocabulary(text, add_special_tokens=False).input_ids[0] for text in ("one", "two"))
    logits = torch.full((2, len(vocabulary)), -30.0)
    logits[0, one], logits[0, two], logits[1, two] = 2.0, 0.0, 9.0
    found = [float(text) for text in choose(loaded, logits, ("one", "two"))]
    assert found == pytest.approx([1 / (1 + np.exp(-2)), 0.0], abs=1e-3)


def test_equal_error_rate_is_where_the_errors_cross() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(400) % 2 == 0
    score = rng.normal(truth * 1.5, 1.0)
    found = equal_error_rate([str(s) for s in score], ["yes" if t else "no" for t in truth])["eer"]

    def gap(threshold: float) -> float:
        return float((score[~truth] >= threshold).mean() - (score[truth] < threshold).mean())

    at = brentq(gap, -5, 5)
    assert found == pytest.approx(100 * (score[~truth] >= at).mean(), abs=0.6)
    assert equal_error_rate(["Yes, it is.", "no"], ["yes", "no"])["eer"] == 0
    assert equal_error_rate(["no", "yes"], ["yes", "no"])["eer"] == 100
    assert equal_error_rate(["perhaps", "perhaps"], ["yes", "no"])["eer"] == 50
    assert equal_error_rate(["0.3"], ["yes"])["eer"] == 50


def test_scores_of_known_answers() -> None:
    def score(metric: str, guesses: list[str], truths: list[str]) -> float:
        chosen = METRICS[metric]
        return chosen.score(guesses, truths, NORMALISERS[chosen.normaliser])[metric]

    assert score("cer", ["abcd"], ["abxd"]) == pytest.approx(25)
    assert score("clamped_wer", ["a b c d e f"], ["x"]) == 100
    assert score("wer", ["a b c d e f"], ["x"]) == 600
    assert score("accuracy", ["Yes.", "no", "no"], ["yes", "no", "yes"]) == pytest.approx(200 / 3)
    assert score("f1", ["Yes.", "no", "no"], ["yes", "no", "yes"]) == pytest.approx(200 / 3)  # both labels: 2/3
    assert score("chrf", ["a cat"], ["a cat"]) == pytest.approx(100)


def test_normalisers() -> None:
    assert NORMALISERS["basic"]("It's, well... FINE!") == "it's well fine"
    assert NORMALISERS["whisper-en"]("Mr. Smith isn't, um, twenty five") == "mister smith is not 25"
    assert NORMALISERS["whisper-en"]("two one four") == "214"  # why spoken digits are scored by the basic one
    assert NORMALISERS["none"](" As it is. ") == " As it is. "
    assert find_task("transcription=x.csv").settings["normaliser"] == "whisper-en"
    assert find_task("asr").settings["normaliser"] == "basic"


def test_features_are_kept_and_change_nothing(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes of answers with the cache and without; the encoder runs once."""
    path = source(clips, ".jsonl")
    answers = []
    for name, size in (("off", "0"), ("first", "2GB"), ("second", "2GB")):
        monkeypatch.setenv("FASTADASP_FEATURES", size)
        out = tmp_path / name
        options = ("--strategies", "weighted,prune", "--budgets", "0.6", "--output", str(out))
        assert run("compare", "--tasks", f"asr={path}", *options)[0] == 0
        answers.append((out / "predictions.jsonl").read_bytes())
        kept = list((tmp_path / "cache" / "features").glob("*/*"))
        assert len(kept) == (0 if name == "off" else 3)
    assert answers[0] == answers[1] == answers[2]


def test_features_come_from_the_cache(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(str(model_path()))
    examples = find_task(f"asr={source(clips, '.jsonl')}").examples()
    calls: list[int] = []
    handle = loaded.model.model.audio_tower.register_forward_hook(lambda *_: calls.append(1))
    try:
        first = prepare(loaded, examples, 2, lambda _: None)
        assert len(calls) == 2
        again = prepare(loaded, examples, 2, lambda _: None)
        assert len(calls) == 2
    finally:
        handle.remove()
    assert all(torch.equal(first[key].embeds, again[key].embeds) for key in first)
    for file in (clips.parent / "cache" / "features").glob("*/*"):
        file.write_bytes(b"damaged")
    third = prepare(loaded, examples, 2, lambda _: None)
    assert all(torch.equal(first[key].embeds, third[key].embeds) for key in first)
    soundfile.write(clips / "a0.wav", np.zeros(8000), 16_000)  # another recording under the same name
    other = prepare(loaded, examples[:1], 2, lambda _: None)
    assert next(iter(other.values())).audio_tokens != next(iter(first.values())).audio_tokens


def test_the_least_recently_used_features_go_first(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTADASP_FEATURES", "2.5KB")
    cache = features.FeatureCache(load_model(str(model_path())))
    for number in range(3):
        cache.put(clips / f"a{number}.wav", torch.full((16, 16), float(number)))
        os.utime(cache._file(clips / f"a{number}.wav"), (number, number))
    assert cache.get(clips / "a0.wav") is not None  # used now, so the last to go
    cache.trim()
    assert [cache.get(clips / f"a{number}.wav") is not None for number in range(3)] == [True, False, True]
    monkeypatch.setenv("FASTADASP_FEATURES", "plenty")
    with pytest.raises(Exception, match="FASTADASP_FEATURES is a size"):
        features.cap()


def test_clips_of_like_length_share_a_batch() -> None:
    loaded = load_model(str(model_path()))
    ready = list(prepare(loaded, find_task("asr").examples(9), 3, lambda _: None).values())
    made = list(batches(ready, 3, "cpu"))
    lengths = [[clip.tokens for clip in batch.clips] for batch in made]
    assert [n for group in lengths for n in group] == sorted((clip.tokens for clip in ready), reverse=True)
    assert sorted(place for batch in made for place in batch.places) == list(range(9))


def test_every_key_of_task_files_is_documented() -> None:
    page = (DOCS / "tasks.md").read_text()
    for name, field in Definition.model_fields.items():
        assert f"| `{name}` | {field.description} |" in page, name
    for names in COLUMNS.values():
        assert all(f"`{name}`" in page for name in names)
    for name in (*METRICS, *NORMALISERS):
        assert f"`{name}`" in page
