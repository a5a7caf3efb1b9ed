"""Five rows of each public benchmark, as the hub stores them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
from datasets import Audio, ClassLabel, Features, Value

from fastadasp.experiments.axes import find_task
from fastadasp.tasks.sources.address import read_address

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
