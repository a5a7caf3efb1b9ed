"""Greedy tokens of tiny models in transformers and in vLLM, one family after the other; a line of JSON for each."""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import voxtral
from families import build
from inside import end

from fastadasp import load_strategy
from fastadasp.audio import read_audio
from fastadasp.demo import data_path
from fastadasp.demo.rows import read_rows
from fastadasp.serving.options import overrides

NEW, COUNT = 24, 6
CLASSES = {"qwen2_5_omni": "Qwen2_5OmniThinkerForConditionalGeneration"}


def clips() -> list[Any]:
    rows = read_rows(data_path(), ["asr"], COUNT)
    return [read_audio(data_path() / row["audio_filepath"], 16000) for row in rows]


@dataclass(frozen=True)
class Made:
    """A checkpoint: its model of transformers, what each engine is given for a clip, and vLLM's options."""

    model: Any
    inputs: Callable[[Any], dict[str, Any]]
    request: Callable[[Any], dict[str, Any]]
    architecture: str
    options: dict[str, Any]


def make(name: str, folder: Path) -> Made:
    """Builds a family's checkpoint in a folder and reads it again with transformers."""
    if name == "voxtral":
        model = voxtral.build(folder)
        return Made(model, voxtral.inputs, voxtral.request, "VoxtralForConditionalGeneration", voxtral.OPTIONS)
    prompt = f"Now: {build(name, folder)}Transcribe the numbers."
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
    model = getattr(transformers, CLASSES.get(name, architecture))
    model = model.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    rate = {} if name == "granite_speech" else {"sampling_rate": 16000}

    def inputs(wave: Any) -> dict[str, Any]:
        made = processor(text=[prompt], audio=[wave], return_tensors="pt", **rate)
        made.pop("num_audio_tokens", None)
        return made

    def request(wave: Any) -> dict[str, Any]:
        return {"prompt": prompt, "multi_modal_data": {"audio": (wave, 16000)}}

    # this family's encoder pads a batch in vLLM, so clips come one at a time
    options = {"max_num_seqs": 1} if name == "granite_speech" else {}
    return Made(model, inputs, request, architecture, options)


def reference(made: Made, settings: list[dict | None]) -> list[dict]:
    """Tokens and their log probabilities in transformers, one clip at a time."""

    def answer(wave: Any) -> tuple[list[int], list[float]]:
        inputs = made.inputs(wave)
        with torch.inference_mode():
            out = made.model.generate(
                **inputs, do_sample=False, min_new_tokens=NEW, max_new_tokens=NEW, eos_token_id=None, pad_token_id=0,
                output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
        tokens = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        return tokens, [float(x[0].log_softmax(-1)[t]) for x, t in zip(out.logits, tokens, strict=True)]

    found = []
    for setting in settings:
        work: Any = nullcontext()
        if setting is not None:
            changes = {"budget": setting["budget"], "positions": setting["positions"]}
            work = load_strategy(setting["strategy"], site="input", layers={"layer": 0}, **changes).apply(made.model)
        with work:
            answers = [answer(wave) for wave in clips()]
        found.append({"tokens": [tokens for tokens, _ in answers], "logprobs": [logs for _, logs in answers]})
    return found


def served(made: Made, folder: Path, setting: dict) -> dict:
    """Tokens and their log probabilities in vLLM."""
    from vllm import LLM, SamplingParams

    options = {"max_num_seqs": 8, "enforce_eager": True, "max_model_len": 1024, "dtype": "float32"} | made.options
    changes = overrides(setting, made.architecture)
    engine = LLM(
        model=str(folder), hf_overrides=changes, limit_mm_per_prompt={"audio": 1}, disable_log_stats=True, **options
    )
    asked = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, logprobs=0)
    requests = [made.request(wave) for wave in clips()]
    outs, again = (engine.generate(requests, asked, use_tqdm=False) for _ in range(2))
    end(engine)
    firsts = [out.outputs[0] for out in outs]
    return {
        "tokens": [list(out.token_ids) for out in firsts],
        "logprobs": [[step[t].logprob for step, t in zip(o.logprobs, o.token_ids, strict=True)] for o in firsts],
        "again": [list(out.outputs[0].token_ids) for out in again],
    }


if __name__ == "__main__":
    names, setting, others = (json.loads(given) for given in sys.argv[1:])
    for name in names:
        found: dict[str, Any] = {"family": name}
        with tempfile.TemporaryDirectory() as temporary:
            try:
                made = make(name, Path(temporary))
                found["reference"] = reference(made, [setting, *others])
                found["served"] = served(made, Path(temporary), setting)
            except Exception:  # the other families are still worth a run
                found["error"] = traceback.format_exc()
        print("\nRESULT " + json.dumps(found), flush=True)
