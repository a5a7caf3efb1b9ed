"""Strategies under other people's evaluation: a harness's results equal ours on the same clips."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
from command import run

from fastadasp import RunError, StrategyError, load_strategy
from fastadasp.audio import read_audio
from fastadasp.demo import model_path
from fastadasp.experiments.axes import find_task
from fastadasp.harness.answers import Answering, Question, check_greedy


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTADASP_CACHE", str(tmp_path / "cache"))


def ours(folder: Path, clips: int) -> tuple[dict[str, str], float]:
    """Answers and accuracy of `fastadasp compare` under a strategy."""
    options = ("--strategies", "weighted", "--budgets", "0.5", "--limit", str(clips), "--output", str(folder))
    code, told = run("compare", "--tasks", "er", *options)
    assert code == 0, told
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    cells = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    answers = {line["id"]: line["prediction"] for line in lines if line["strategy"] == "weighted"}
    return answers, next(cell["metrics"]["accuracy"] for cell in cells if cell["strategy"] == "weighted")


def test_questions_of_a_harness_get_the_answers_of_compare(tmp_path: Path) -> None:
    """As paths, as samples in memory and as bytes of a dataset; in another order, with other lengths between."""
    expected, _ = ours(tmp_path / "ours", 8)
    examples = find_task("er").examples(8)
    answering = Answering.load(str(model_path()), "weighted", "0.5")
    forms: list[Any] = []
    for place, example in enumerate(examples):
        wave, rate = soundfile.read(example.audio, dtype="float32")
        whole = {"bytes": example.audio.read_bytes(), "path": example.audio.name}
        forms.append([str(example.audio), {"array": wave, "sampling_rate": rate}, whole][place % 3])
    questions = [Question(e.instruction, form, 8) for e, form in zip(examples, forms, strict=True)]
    assert answering.answer(questions) == [expected[example.id] for example in examples]
    other = [Question(examples[0].instruction, forms[0], 1), *reversed(questions)]
    assert answering.answer(other)[1:] == [expected[example.id] for example in reversed(examples)]


def test_a_pipeline_of_transformers_answers_as_compare_does(tmp_path: Path) -> None:
    """The example of the documentation runs; on several clips the pipeline's answers are ours."""
    page = (Path(__file__).parents[1] / "docs" / "harnesses.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    shown = io.StringIO()
    try:
        with contextlib.redirect_stdout(shown):
            exec(compile(block, "docs/harnesses.md", "exec"), names)
    except ImportError as missing:  # pipelines of older releases of transformers ask for librosa
        pytest.skip(f"this transformers has no pipeline here: {' '.join(str(missing).split())}")
    assert "audio tokens left" in shown.getvalue()
    expected, _ = ours(tmp_path / "ours", 4)
    answers = {}
    with load_strategy("weighted", budget=0.5).apply(names["model"]):
        for example in find_task("er").examples(4):
            sound = {"type": "audio", "audio": read_audio(example.audio, 16_000)}
            chat = [{"role": "user", "content": [sound, {"type": "text", "text": example.instruction}]}]
            answers[example.id] = names["pipe"](text=chat, return_full_text=False, max_new_tokens=8)[0][
                "generated_text"
            ]
    assert answers == expected


def test_what_ends_an_answer(tmp_path: Path) -> None:
    answering = Answering.load(str(model_path()))
    example = find_task("er").examples(1)[0]
    whole = answering.answer([Question(example.instruction, example.audio, 8)])[0]
    assert len(whole) > 2
    cut = answering.answer([Question(example.instruction, example.audio, 8, ("nowhere", whole[2:]))])[0]
    assert cut == whole[:2]


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"do_sample": True}, "do_sample=True"), ({"num_beams": 4}, "num_beams=4")],
)
def test_answers_are_greedy(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RunError, match=f"greedy here; the task asks for {said}"):
        check_greedy(settings)
    check_greedy({"do_sample": False, "temperature": 0.7, "num_beams": 1, "until": ["x"]})


def test_what_a_harness_cannot_ask_for() -> None:
    with pytest.raises(RunError, match="needs a strategy"):
        Answering.load(str(model_path()), None, "0.5")
    with pytest.raises(RunError, match="batch_size is a number of clips"):
        Answering.load(str(model_path()), batch_size="auto")
    for device in ("cuda:1", "cuda:", "cuda:x", "auto:0"):
        with pytest.raises(RunError, match=f"cuda or cuda:0, not '{device}'; CUDA_VISIBLE_DEVICES"):
            Answering.load(str(model_path()), device=device)
    recipe = load_strategy("weighted", **{"layers.name": "transfer-entropy"})
    assert recipe.needs_calibration


def test_a_recipe_that_needs_calibration_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "chosen.toml"
    recipe.write_text('extends = "weighted"\n')
    text = load_strategy("weighted", **{"layers.name": "transfer-entropy"}).to_toml()
    recipe.write_text(text)
    with pytest.raises(StrategyError, match="select-layer"):
        Answering.load(str(model_path()), str(recipe))


def test_lm_evaluation_harness_gives_our_results(tmp_path: Path) -> None:
    """Every answer and the accuracy, by the harness's own command line, with a task file of its own."""
    pytest.importorskip("lm_eval")
    expected, accuracy = ours(tmp_path / "ours", 12)
    examples = find_task("er").examples(12)
    rows = [{"id": e.id, "audio": str(e.audio), "question": e.instruction, "answer": e.reference} for e in examples]
    (tmp_path / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "emotion.yaml").write_text(
        f"task: emotion\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {tmp_path / 'clips.jsonl'}\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_audio: audio\ndoc_to_text: '<audio>{{question}}'\n"
        "doc_to_target: '{{answer}}'\ngeneration_kwargs:\n  max_gen_toks: 8\n  do_sample: false\n  until: []\n"
        "metric_list:\n  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true\n"
    )
    arguments = f"pretrained={model_path()},strategy=weighted,budget=0.5"
    command = [
        "run",
        "--model",
        "fastadasp",
        "--model_args",
        arguments,
        "--tasks",
        "emotion",
        "--batch_size",
        "12",
        "--device",
        "cpu",
    ]
    command += ["--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path / "out"), "--log_samples"]
    done = subprocess.run(
        [sys.executable, "-m", "fastadasp.harness.lm_eval", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (samples,) = (tmp_path / "out").rglob("samples_emotion_*.jsonl")
    logged = [json.loads(line) for line in samples.read_text().splitlines()]
    assert {line["doc"]["id"]: line["resps"][0][0] for line in logged} == expected
    (results,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(results.read_text())["results"]["emotion"]["exact_match,none"]
    assert 100 * found == pytest.approx(accuracy)


def test_what_lm_evaluation_harness_may_not_ask(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.api.registry import get_model

    import fastadasp.harness.lm_eval  # noqa: F401

    model: Any = get_model("fastadasp").create_from_arg_string(f"pretrained={model_path()}", {"device": None})
    sound = str(find_task("er").examples(1)[0].audio)
    for arguments, said in (
        (("What?", {}), "needs doc_to_audio"),
        (("What?", {}, {"audio": [sound, sound]}), "one recording here, not 2"),
        (("What?", {"do_sample": True}, {"audio": [sound]}), "greedy"),
    ):
        with pytest.raises(Exception, match=said):
            model.generate_until([Instance("generate_until", {}, arguments, 0)])
    with pytest.raises(RunError, match="generate_until"):
        model.loglikelihood([])
    with pytest.raises(RunError, match="chat template"):
        model.apply_chat_template([])


def test_lmms_eval_gives_our_answers(tmp_path: Path) -> None:
    """Through its registry, which finds the model by the entry point, and with requests as its tasks make them."""
    pytest.importorskip("lmms_eval")
    from lmms_eval.api.instance import Instance
    from lmms_eval.models import get_model

    expected, _ = ours(tmp_path / "ours", 6)
    examples = find_task("er").examples(6)
    arguments = f"pretrained={model_path()},strategy=weighted,budget=0.5"
    model: Any = get_model("fastadasp").create_from_arg_string(arguments, {"batch_size": 12, "device": "cpu"})
    docs = []
    for example in examples:
        wave, rate = soundfile.read(example.audio, dtype="float32")
        docs.append({"audio": {"array": wave, "sampling_rate": rate}})
    model.task_dict = {"emotion": {"test": docs}}
    about = {"task": "emotion", "doc_id": 0, "repeats": 1}
    settings = {"max_new_tokens": 8, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}

    def request(place: int, **more: Any) -> Any:
        arguments = (examples[place].instruction, settings | more, lambda doc: [doc["audio"]], place, "emotion", "test")
        return Instance(request_type="generate_until", arguments=arguments, idx=0, metadata=about)

    assert model.generate_until([request(place) for place in range(6)]) == [expected[e.id] for e in examples]
    with pytest.raises(RunError, match="num_beams=3"):
        model.generate_until([request(0, num_beams=3)])
    docs[0] = {"audio": None}
    several = Instance("generate_until", ("?", settings, lambda doc: [], 0, "emotion", "test"), 0, about)
    with pytest.raises(Exception, match="one recording here, not 0"):
        model.generate_until([several])
    with pytest.raises(RunError, match="generate_until"):
        model.loglikelihood([])
