"""Greedy tokens of tiny models in transformers and in vLLM, one family after the other; a line of JSON for each."""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
import transformers
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


def reference(folder: Path, name: str, prompt: str, settings: list[dict | None]) -> list[dict]:
    """Tokens and their log probabilities in transformers, one clip at a time."""
    config = json.loads((folder / "config.json").read_text())
    processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
    model = getattr(transformers, CLASSES.get(name, config["architectures"][0]))
    model = model.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()

    def answer(wave: Any) -> tuple[list[int], list[float]]:
        rate = {} if name == "granite_speech" else {"sampling_rate": 16000}
        inputs = processor(text=[prompt], audio=[wave], return_tensors="pt", **rate)
        inputs.pop("num_audio_tokens", None)
        with torch.inference_mode():
            out = model.generate(
                **inputs, do_sample=False, min_new_tokens=NEW, max_new_tokens=NEW, eos_token_id=None, pad_token_id=0,
                output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
        tokens = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        return tokens, [float(x[0].log_softmax(-1)[t]) for x, t in zip(out.logits, tokens, strict=True)]

    def answers() -> dict:
        made = [answer(wave) for wave in clips()]
        return {"tokens": [tokens for tokens, _ in made], "logprobs": [probabilities for _, probabilities in made]}

    found = []
    for setting in settings:
        if setting is None:
            found.append(answers())
            continue
        changes = {"budget": setting["budget"], "positions": setting["positions"]}
        with load_strategy(setting["strategy"], site="input", layers={"layer": 0}, **changes).apply(model):
            found.append(answers())
    return found


def served(folder: Path, prompt: str, setting: dict) -> dict:
    """Tokens and their log probabilities in vLLM, one clip at a time in the encoder where a family pads a batch."""
    from vllm import LLM, SamplingParams

    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    engine = LLM(
        model=str(folder), hf_overrides=overrides(setting, architecture), dtype="float32", enforce_eager=True,
        max_model_len=1024, max_num_seqs=1 if "Granite" in architecture else 8, limit_mm_per_prompt={"audio": 1},
        disable_log_stats=True,
    )  # fmt: skip
    requests = [{"prompt": prompt, "multi_modal_data": {"audio": (wave, 16000)}} for wave in clips()]
    options = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, logprobs=0)
    outs = [out.outputs[0] for out in engine.generate(requests, options, use_tqdm=False)]
    end(engine)
    return {
        "tokens": [list(out.token_ids) for out in outs],
        "logprobs": [[step[t].logprob for step, t in zip(o.logprobs, o.token_ids, strict=True)] for o in outs],
    }


if __name__ == "__main__":
    names, setting, others = (json.loads(given) for given in sys.argv[1:])
    for name in names:
        made: dict[str, Any] = {"family": name}
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            try:
                prompt = f"Now: {build(name, folder)}Transcribe the numbers."
                made["reference"] = reference(folder, name, prompt, [setting, *others])
                made["served"] = served(folder, prompt, setting)
            except Exception:  # the other families are still worth a run
                made["error"] = traceback.format_exc()
        print("\nRESULT " + json.dumps(made), flush=True)
