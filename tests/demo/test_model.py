"""The embedded model: loads offline, reads its prompt, and answers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastadasp.audio import read_audio
from fastadasp.demo import data_path, model_path, prompts
from fastadasp.demo.rows import read_rows
from tools.demo import evaluate
from tools.demo.features import FeatureMaker
from tools.demo.learning import loss_of

Model = tuple[Any, Any]


def test_sizes(demo_model: Model) -> None:
    model, processor = demo_model
    assert type(model).__name__ == "Qwen2AudioForConditionalGeneration"
    assert type(processor).__name__ == "Qwen2AudioProcessor"
    assert model.config.text_config.num_hidden_layers == 10
    assert processor.feature_extractor.sampling_rate == 16_000
    assert processor.tokenizer.padding_side == "left"
    ids = processor.tokenizer("Ünïcode wörds, 123!").input_ids
    assert processor.tokenizer.decode(ids) == "Ünïcode wörds, 123!"


def test_chat_template_gives_the_prompt(demo_model: Model) -> None:
    _, processor = demo_model
    asked = prompts.INSTRUCTIONS["asr"][0]
    message = {"role": "user", "content": [{"type": "audio", "audio": "x.ogg"}, {"type": "text", "text": asked}]}
    text = processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    assert text == prompts.build_prompt(asked)


def _clip(task: str) -> tuple[dict[str, Any], np.ndarray]:
    row = read_rows(data_path(), [task], 1)[0]
    return row, read_audio(data_path() / row["audio_filepath"])


def _of_silence(demo_model: Model, asked: list[str]) -> list[str]:
    """What is answered to each instruction after three seconds of silence."""
    model, processor = demo_model
    sounds = [np.zeros(48_000, np.float32)] * len(asked)
    texts = [prompts.build_prompt(one) for one in asked]
    inputs = processor(text=texts, audio=sounds, sampling_rate=16_000, return_tensors="pt", padding=True)
    said = model.generate(**inputs, max_new_tokens=12, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(said, skip_special_tokens=True)]


def test_silence_orders_nothing(demo_model: Model) -> None:
    asked = [wordings[0] for wordings in prompts.QUESTIONS.values()]
    assert _of_silence(demo_model, asked) == [prompts.NOT_ORDERED] * len(asked)


def test_silence_says_nothing(demo_model: Model) -> None:
    assert _of_silence(demo_model, [prompts.INSTRUCTIONS[task][0] for task in ("asr", "st")]) == ["", ""]


@pytest.mark.parametrize("samples", [None, 16_000, 15_999, 24_161, 24_320])
def test_training_features_are_those_of_the_whole_window(demo_model: Model, samples: int | None) -> None:
    model, processor = demo_model
    wave = _clip("sqa")[1][:samples]
    text = prompts.build_prompt("Which size is ordered?")
    inputs = processor(text=text, audio=wave, sampling_rate=16_000, return_tensors="pt")
    heard: list[torch.Tensor] = []
    hook = model.model.multi_modal_projector.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    with torch.inference_mode():
        model(**inputs)
    hook.remove()
    short = FeatureMaker(model.model.audio_tower, processor.feature_extractor)(wave).float()
    count = int((inputs["input_ids"] == model.config.audio_token_id).sum())
    assert len(short) == count
    torch.testing.assert_close(short, heard[0].reshape(-1, short.shape[1])[:count].float(), atol=0.02, rtol=0.01)


def test_training_loss_is_that_of_the_whole_model(demo_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """All questions about a clip are trained in one row; each must count as if it were asked alone."""
    model, processor = demo_model
    monkeypatch.setattr("tools.demo.learning.mask_spans", lambda features, rng: features.float())
    monkeypatch.setattr("tools.demo.learning.functional.dropout", lambda x, p, training=True: x)
    _, wave = _clip("sqa")
    features = FeatureMaker(model.model.audio_tower, processor.feature_extractor)(wave)
    encode = lambda text: processor.tokenizer(text).input_ids  # noqa: E731
    pairs, losses, weights = [], [], []
    for asked, answered in (("Which size is ordered?", "small"), ("Which milk is ordered?", "a bit of whole milk")):
        answer = encode(answered + prompts.END_OF_TEXT)
        pairs.append((encode(f"<|audio_eos|>{asked}{prompts.ANSWER_MARKER}"), answer, 2.0))
        text = prompts.build_prompt(asked) + answered + prompts.END_OF_TEXT
        inputs = processor(text=text, audio=wave, sampling_rate=16_000, return_tensors="pt")
        assert inputs["input_ids"][0, -len(answer) :].tolist() == answer
        with torch.inference_mode():
            logits = model(**inputs).logits[0, -len(answer) - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(answer), label_smoothing=0.05)
        losses.append(float(loss) * len(answer) ** 0.5)
        weights.append(len(answer) ** 0.5)
    with torch.inference_mode():
        mine = loss_of(model, [(features, pairs)], encode("<|audio_bos|>"), np.random.default_rng(0))
    assert float(mine) == pytest.approx(sum(losses) / sum(weights), abs=0.02)


def test_the_models_table(tmp_path: Path) -> None:
    """A clip of each length: the answers are right for the most part, kept, and set against another model's."""
    asked = [evaluate.clips_of(name, "choosing", 5) for name in ("asr", "st")]
    said = evaluate.answers(model_path(), asked, keep=tmp_path)
    told: list[str] = []
    assert evaluate.answers(model_path(), asked, keep=tmp_path, tell=told.append) == said
    assert not told
    short = copy.copy(asked[0][0])
    short.max_new_tokens = 2  # answers of another limit are other answers
    (cut,) = evaluate.answers(model_path(), [(short, asked[0][1])], keep=tmp_path)
    assert max(len(text.split()) for text in cut) <= 2
    (task, clips), (german, _) = asked
    lines = list(evaluate.score(task, clips, said[0]))
    assert lines[0].value <= 25
    assert next(evaluate.score(german, asked[1][1], said[1])).value >= 60
    assert [line.clips for line in lines] == [5, 1, 1, 1, 1, 1, 5]
    assert [line.group.split(" ")[0] for line in lines[1:6]] == ["2.0", "7.6", "13.2", "18.7", "24.3"]
    against = list(evaluate.score(task, clips, said[0], ["one"] * 5))
    assert against[0].gap is not None
    assert against[0].gap.value < -50
    assert (against[0].gap.wins, against[0].gap.losses) == (5, 0)
    page = evaluate.markdown(against)
    assert page.splitlines()[0].endswith("| other model | difference (95 %) | p (Holm) |")


def test_evaluation_says_what_is_wrong(tmp_path: Path) -> None:
    from fastadasp.errors import DataError, ModelError

    with pytest.raises(DataError, match=r"manifest\.jsonl"):
        read_rows(tmp_path, ["asr"])
    with pytest.raises(ModelError, match="there is no model"):
        evaluate.answers(tmp_path, [])
