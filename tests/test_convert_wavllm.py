"""WavLLM, converted: the same numbers, tokens and prompts as its authors' code gives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import original_wavllm as original
import pytest
import torch
from command import compare, run
from tiny import RECIPES, error, strategy, strategy_names
from torch import Tensor

from fastadasp.convert.kinds import convert
from fastadasp.errors import DataError, ModelError
from fastadasp.inference.load import load_model

torch.set_num_threads(1)

BEFORE = (
    "[INST]<<SYS>>\nAs a helpful language and speech assistant, you are able to understand the speech content provided "
    "by the user, and assist the user with a variety of tasks using natural language.\n<</SYS>>\n\n<SPEECH>"
)
QUESTIONS = ("is it good?", "tell us that, please", "a")
SECONDS = (1.73, 2.9, 0.4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wavllm")
    original.write(folder / "source" / "final.pt")
    original.write_tokenizer(folder / "source")
    convert("wavllm", folder / "source" / "final.pt", folder / "model")
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    return load_model(str(folder / "model"), "cpu")


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    generator = np.random.default_rng(0)
    return [generator.normal(0, 0.1, int(16000 * seconds)).astype(np.float32) for seconds in SECONDS]


def prompt(loaded: Any, question: str) -> str:
    messages = [{"role": "user", "content": [{"type": "audio", "audio": ""}, {"type": "text", "text": question}]}]
    return str(loaded.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def batch(loaded: Any, clips: Any, *rows: int) -> dict[str, Tensor]:
    texts = [prompt(loaded, QUESTIONS[row]) for row in rows]
    inputs = loaded.processor(text=texts, audio=[clips[row] for row in rows], sampling_rate=16000, padding=True)
    return dict(inputs)


class Expected:
    """The original's outcome for one clip, at batch size one."""

    def __init__(self, loaded: Any, wave: Any, question: str) -> None:
        self.reference = original.Reference(original.weights())
        heard = loaded.processor.feature_extractor(wave, sampling_rate=16000, return_attention_mask=True)
        mel, frames = torch.tensor(np.asarray(heard["input_features"][0])), int(np.sum(heard["attention_mask"][0]))
        self.before = [1, *original.spelled(BEFORE)]
        self.after = [1, *original.spelled(f" </SPEECH> {question} [/INST]")[1:]]
        self.prompt = original.spelled(f'"{question}"')
        self.audio = self.reference.audio(mel, frames, torch.from_numpy(wave))

    def logits(self, *said: int) -> Tensor:
        return self.reference.logits(self.before, self.audio, [*self.after, *said], self.prompt)

    def greedy(self, steps: int) -> list[int]:
        said: list[int] = []
        for _ in range(steps):
            scores = self.logits(*said)[-1]
            said.append(int(scores[1:].argmax()) + 1)  # the padding word is never chosen
        return said


def test_prompts_are_the_originals(loaded: Any, clips: Any) -> None:
    text = prompt(loaded, QUESTIONS[0])
    assert text == f"{BEFORE}<|audio|> </SPEECH> {QUESTIONS[0]} [/INST]"
    inputs, expected = batch(loaded, clips, 0), Expected(loaded, clips[0], QUESTIONS[0])
    placeholder = loaded.model.config.audio_token_id
    assert inputs["input_ids"][0].tolist() == [
        *expected.before,
        *[placeholder] * len(expected.audio),
        *expected.after,
    ]
    assert inputs["prompt_ids"][0].tolist() == expected.prompt
    assert original.spelled(" </SPEECH>")[0] == 259  # two spaces: the token that the start token replaces


@torch.no_grad()
def test_encoders_adapters_scale_and_logits_are_the_originals(loaded: Any, clips: Any) -> None:
    for row, question in enumerate(QUESTIONS):
        inputs, expected = batch(loaded, clips, row), Expected(loaded, clips[row], question)
        sound = {name: inputs[name] for name in inputs if name.startswith(("input_f", "feature", "speech"))}
        tokens, lengths = loaded.model.audio_features(**sound)
        assert lengths.tolist() == [len(expected.audio)]
        assert error(tokens[0, : lengths[0]], expected.audio) <= 1e-5
        scale = loaded.model.prompt_scale(inputs["prompt_ids"], inputs["prompt_mask"])
        assert error(scale[0], expected.reference.prompt_scale(expected.prompt)) <= 1e-5
        assert 0 < float(scale.max()) <= 3
        words = original.SIZES["words"]
        logits = loaded.model(**inputs).logits[0]
        assert error(logits[:, :words], expected.logits()) <= 1e-5
        assert bool((logits[:, words:] < -1e30).all())


@torch.no_grad()
def test_a_batch_gives_each_clip_what_it_gets_alone(loaded: Any, clips: Any) -> None:
    together = batch(loaded, clips, 0, 1, 2)
    logits = loaded.model(**together).logits
    for row in range(3):
        alone = loaded.model(**batch(loaded, clips, row)).logits[0]
        assert error(logits[row, -len(alone) :, : original.SIZES["words"]], alone[:, : original.SIZES["words"]]) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 2])
def test_generate_scales_by_each_prompt_in_every_step(loaded: Any, clips: Any, beams: int) -> None:
    settings = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None, "num_beams": beams}
    tokens = loaded.model.generate(**batch(loaded, clips, 0, 1), **settings)
    for row in range(2):
        one = batch(loaded, clips, row)
        assert tokens[row, -6:].tolist() == loaded.model.generate(**one, **settings)[0, -6:].tolist()
        if beams == 1:
            assert tokens[row, -6:].tolist() == Expected(loaded, clips[row], QUESTIONS[row]).greedy(6)


@torch.no_grad()
def test_strategies_reduce_its_audio(loaded: Any, clips: Any) -> None:
    inputs = batch(loaded, clips, 0, 1)
    plain = loaded.model(**inputs).logits
    with strategy("weighted", budget=0.5).apply(loaded.model) as trace:
        loaded.model.generate(**inputs, do_sample=False, max_new_tokens=3, eos_token_id=None)
    audio = (inputs["input_ids"] == loaded.model.config.audio_token_id).sum(1)
    assert trace.layers[-1].audio_tokens_per_sample == tuple(n - n // 2 for n in audio.tolist())
    assert torch.equal(loaded.model(**inputs).logits, plain)


@pytest.mark.parametrize(
    "name", [n for n in strategy_names() if n not in RECIPES and "encoder" not in strategy(n).needs()]
)
@torch.no_grad()
def test_every_strategy_keeps_clips_of_a_batch_apart(loaded: Any, clips: Any, name: str) -> None:
    settings = {"do_sample": False, "max_new_tokens": 4, "eos_token_id": None, "output_logits": True}
    with strategy(name, budget=0.4).apply(loaded.model):
        together = loaded.model.generate(**batch(loaded, clips, 0, 1, 2), **settings, return_dict_in_generate=True)
        for row in range(3):
            alone = loaded.model.generate(**batch(loaded, clips, row), **settings, return_dict_in_generate=True)
            for ours, theirs in zip(together.logits, alone.logits, strict=True):
                words = original.SIZES["words"]
                assert error(ours[row, :words], theirs[0, :words]) <= 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_both_attentions_agree(folder: Path, loaded: Any, clips: Any, attention: str) -> None:
    model = (
        type(loaded.model).from_pretrained(folder / "model", attn_implementation=attention, dtype=torch.float32).eval()
    )
    inputs = batch(loaded, clips, 0, 1)
    assert error(model(**inputs).logits[:, -1, :300], loaded.model(**inputs).logits[:, -1, :300]) <= 1e-5
    assert model.language_model.config._attn_implementation == attention


def test_the_prompts_scale_cannot_be_forgotten(loaded: Any, clips: Any) -> None:
    inputs = batch(loaded, clips, 0)
    del inputs["prompt_ids"]
    with pytest.raises(ModelError, match="pass prompt_ids and prompt_mask"):
        loaded.model(**inputs)
    assert loaded.model._in_force.scale(rotary=False) is None


def test_threads_have_a_scale_of_their_own(loaded: Any, clips: Any) -> None:
    """A prompt that is inside the decoder while another one is answered keeps its LoRA."""
    inside, go_on = threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            assert go_on.wait(60)

    @torch.no_grad()
    def logits(row: int) -> Tensor:
        return loaded.model(**batch(loaded, clips, row)).logits

    alone = [logits(0), logits(1)]
    hook = loaded.model.language_model.layers[0].register_forward_pre_hook(wait)
    try:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(logits, 0)
            assert inside.wait(60)
            second = logits(1)
            go_on.set()
            assert torch.equal(first.result(), alone[0])
    finally:
        hook.remove()
    assert torch.equal(second, alone[1])


WRONG_INPUT: dict[str, tuple[dict[str, Any], str]] = {
    "no clip": ({"text": "is it good?"}, "one question about one clip"),
    "two clips": ({"text": f"{BEFORE}<|audio|><|audio|> </SPEECH> a [/INST]"}, "one question about one clip"),
    "rate": ({"sampling_rate": 8000}, "sampled at 8000 Hz; this model hears 16000 Hz"),
    "empty": ({"audio": [np.zeros(0, np.float32)]}, "has 0 samples; this model hears 400 to 48000"),
    "long": ({"audio": [np.zeros(48001, np.float32)]}, "has 48001 samples"),
    "count": ({"audio": [np.zeros(800, np.float32)] * 2}, "1 prompts, but 2 clips"),
}


@pytest.mark.parametrize("fault", WRONG_INPUT)
def test_wrong_input_is_refused(loaded: Any, fault: str) -> None:
    changes, message = WRONG_INPUT[fault]
    usual = {"text": prompt(loaded, "a"), "audio": [np.zeros(800, np.float32)], "sampling_rate": 16000}
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        loaded.processor(**(usual | changes))


def test_every_length_has_as_many_placeholders_as_tokens(loaded: Any) -> None:
    from fastadasp.models.wavllm.processor import WavLLMProcessor

    for samples in (400, 401, 1599, 1600, 16000, 16001, 47999, 48000):
        wave = np.zeros(samples, np.float32)
        inputs = loaded.processor(text=prompt(loaded, "a"), audio=[wave], sampling_rate=16000)
        with torch.no_grad():
            loaded.model(**inputs)  # refuses any other number
    assert WavLLMProcessor.audio_tokens(3000, 480000) == 375  # 30 s


def test_the_llama_may_lie_elsewhere(folder: Path, loaded: Any, tmp_path: Path) -> None:
    """A checkpoint without LLaMA's own weights, and LLaMA in transformers' form."""
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    own, theirs = original.weights(), loaded.model
    base = {
        name: t for name, t in own.items() if not name.startswith(original.LLAMA) or "lora" in name or "scale" in name
    }
    original.write(tmp_path / "source" / "adapters.pt", base)
    original.write_tokenizer(tmp_path / "source")
    original.write_tokenizer(tmp_path / "llama")
    config = LlamaConfig(**{**theirs.config.text_config.to_dict(), "vocab_size": original.SIZES["words"]})
    names = LlamaForCausalLM(config).state_dict()
    held = {f"model.{n}": t for n, t in theirs.language_model.state_dict().items() if "lora" not in n}
    held["model.embed_tokens.weight"] = held["model.embed_tokens.weight"][: original.SIZES["words"]]
    held["lm_head.weight"] = theirs.lm_head.weight.detach()
    assert held.keys() == names.keys()
    save_file({name: tensor.contiguous() for name, tensor in held.items()}, tmp_path / "llama" / "model.safetensors")
    config.save_pretrained(tmp_path / "llama")
    code, told = run("convert", "wavllm", str(tmp_path / "source"), str(tmp_path / "no"))
    assert (code, "give --llama, a folder of LLaMA-2-7B" in told) == (2, True)
    arguments = ("convert", "wavllm", str(tmp_path / "source"), str(tmp_path / "model"))
    code, told = run(*arguments, "--llama", str(tmp_path / "llama"))
    assert code == 0, told
    again = load_model(str(tmp_path / "model"), "cpu").model.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in theirs.state_dict().items())


def replaced(**changes: Tensor | None) -> dict[str, Tensor]:
    given = original.weights() | {
        name.replace("__", "."): tensor for name, tensor in changes.items() if tensor is not None
    }
    return {name: tensor for name, tensor in given.items() if changes.get(name.replace(".", "__"), tensor) is not None}


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no file": (lambda f: None, "holds 0 .pt files; expected one"),
    "not fairseq": (lambda f: torch.save({"state": {}}, f / "final.pt"), "it has no 'model' (it has state)"),
    "not WavLLM": (
        lambda f: original.write(f / "final.pt", {"x": torch.zeros(1)}),
        "none of its tensors is under wavlm",
    ),
    "damaged": (lambda f: (f / "final.pt").write_bytes(b"damaged"), "cannot be read as a checkpoint"),
    "objects": (
        lambda f: original.write(f / "final.pt", task=Path("x")),
        "objects other than tensors and plain values (pathlib.",
    ),
    "missing": (
        lambda f: original.write(f / "final.pt", replaced(wavlm_audio_proj__bias=None)),
        "is not a complete wavllm checkpoint: it lacks wavlm_audio_proj.bias",
    ),
    "no scale": (
        lambda f: original.write(f / "final.pt", replaced(gpt_model__model_llama__scale_fc_1__weight=None)),
        "lacks gpt_model.model_llama.scale_fc_1.weight",
    ),
    "unused": (lambda f: original.write(f / "final.pt", replaced(extra=torch.zeros(1))), "has no place for: extra"),
    "shape": (
        lambda f: original.write(f / "final.pt", replaced(wavlm_audio_proj__bias=torch.zeros(7))),
        "wavlm_audio_proj.bias has shape [7], but the configuration makes it [256]",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_checkpoints_are_refused(fault: str, tmp_path: Path) -> None:
    change, message = WRONG[fault]
    original.write_tokenizer(tmp_path / "source")
    change(tmp_path / "source")
    code, told = run("convert", "wavllm", str(tmp_path / "source"), str(tmp_path / "model"))
    assert (code, message in told, "Traceback" in told) == (2, True, False), told
    assert not (tmp_path / "model").exists()


def test_a_missing_tokenizer_and_llama_are_explained(folder: Path, tmp_path: Path) -> None:
    source, model = tmp_path / "source", str(tmp_path / "model")
    original.write(source / "final.pt")
    code, told = run("convert", "wavllm", str(source), model)
    assert (code, "has no tokenizer.json; give --llama" in told) == (2, True)
    code, told = run("convert", "wavllm", str(source), model, "--llama", str(tmp_path / "x"))
    assert (code, f"there is no folder {tmp_path / 'x'}" in told) == (2, True)
    code, told = run("convert", "qwen-audio", str(source), model, "--llama", str(tmp_path))
    assert (code, "--llama is for wavllm" in told) == (2, True)


def test_names_of_wrapped_layers_and_newer_torch_are_known(loaded: Any, tmp_path: Path) -> None:
    old = original.weights()
    new = {
        name.replace(".layers.", ".layers._checkpoint_wrapped_module.", 1)
        .replace("conv.weight_g", "conv.parametrizations.weight.original0")
        .replace("conv.weight_v", "conv.parametrizations.weight.original1"): tensor
        for name, tensor in old.items()
    }
    original.write(tmp_path / "source" / "final.pt", new)
    original.write_tokenizer(tmp_path / "source")
    convert("wavllm", tmp_path / "source", tmp_path / "model")
    again = load_model(str(tmp_path / "model"), "cpu").model.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in loaded.model.state_dict().items())


def test_compare_runs_it(folder: Path, tmp_path: Path) -> None:
    """A window of 3 s; the answers are noise, but every step of a comparison works."""
    result = compare(folder / "model", tmp_path / "out", "--batch-size", "2")
    assert [cell["error"] for cell in result.values()] == [None, None]
    assert result["weighted"]["efficiency"]["audio_tokens_left"] < result["full"]["efficiency"]["audio_tokens_left"]


def test_a_start_layer_is_chosen_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibration runs the decoder by itself, with each prompt's scale; a window of 10 s."""
    monkeypatch.setenv("FASTADASP_CACHE", str(tmp_path / "cache"))
    original.write(tmp_path / "source" / "final.pt", original.weights({**original.SIZES, "positions": 500}))
    original.write_tokenizer(tmp_path / "source")
    convert("wavllm", tmp_path / "source", tmp_path / "model")
    usual = ("--task", "er", "--clips", "3", "--budget", "flops=0.03")
    assert run("select-layer", "--model", str(tmp_path / "model"), *usual) == (0, "")
