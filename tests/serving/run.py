"""Reference tokens of transformers, and vLLM's, for the same clips; each in a process of its own, JSON on stdout."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from fastadasp import load_strategy
from fastadasp.audio import read_audio
from fastadasp.demo import data_path, model_path
from fastadasp.demo.evaluate import instruction, read_rows
from fastadasp.demo.prompts import build_prompt
from fastadasp.serving.options import overrides

NEW = 48
ARCHITECTURE = "Qwen2AudioForConditionalGeneration"


def clips(count: int) -> list[tuple[str, Any]]:
    """Prompts with their waves."""
    rows = [row for task in ("asr", "er") for row in read_rows(data_path(), [task], count)]
    return [(build_prompt(instruction(row)), read_audio(data_path() / row["audio_filepath"], 16000)) for row in rows]


def reference(settings: list[dict], count: int) -> list[list[list[int]]]:
    """Greedy tokens of transformers, one clip at a time."""
    from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

    processor = AutoProcessor.from_pretrained(model_path(), local_files_only=True)
    model = Qwen2AudioForConditionalGeneration.from_pretrained(model_path(), local_files_only=True).eval()

    def answer(text: str, wave: Any) -> list[int]:
        inputs = processor(text=[text], audio=[wave], sampling_rate=16000, return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(**inputs, do_sample=False, max_new_tokens=NEW)
        return out[0, inputs["input_ids"].shape[1] :].tolist()

    answers = []
    for setting in settings:
        changes = {"budget": setting["budget"], "positions": setting["positions"]}
        method = load_strategy(setting["strategy"], site="input", layers={"layer": 0}, **changes)
        with method.apply(model):
            answers.append([answer(*clip) for clip in clips(count)])
    return answers


def served(setting: dict | None, count: int, budgets: list[float]) -> dict:
    """Greedy tokens of vLLM, all clips in one batch; again from its caches; and with a budget by request."""
    from vllm import LLM, SamplingParams

    options: dict[str, Any] = {"dtype": "float32", "enforce_eager": True, "max_model_len": 1024, "max_num_seqs": 8}
    options |= {"limit_mm_per_prompt": {"audio": 1}, "disable_log_stats": True}
    engine = LLM(model=str(model_path()), hf_overrides=overrides(setting, ARCHITECTURE) if setting else {}, **options)
    asked = clips(count)

    def ask(**more: Any) -> list:
        requests = [{"prompt": text, "multi_modal_data": {"audio": (wave, 16000)}, **more} for text, wave in asked]
        return engine.generate(requests, SamplingParams(temperature=0, max_tokens=NEW), use_tqdm=False)

    def tokens(outs: list) -> list[list[int]]:
        return [list(out.outputs[0].token_ids) for out in outs]

    first = ask()
    return {
        "tokens": tokens(first),
        "prompts": [len(out.prompt_token_ids) for out in first],
        "again": tokens(ask()),
        "budgets": [tokens(ask(mm_processor_kwargs={"fastadasp_budget": budget})) for budget in budgets],
    }


if __name__ == "__main__":
    what, given = (json.loads(argument) for argument in sys.argv[1:])
    made = reference(**given) if what == "reference" else served(**given)
    print("\nRESULT " + json.dumps(made))
