"""Greedy tokens of transformers, and vLLM's, for the same prompts; each in a process of its own, JSON on stdout."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from inside import end

from fastadasp import Strategy, load_strategy
from fastadasp.audio import read_audio
from fastadasp.demo import data_path, model_path
from fastadasp.demo.prompts import AUDIO_PLACEHOLDER, build_prompt
from fastadasp.demo.rows import instruction, read_rows
from fastadasp.inference.load import load_model
from fastadasp.serving.embeddings import embed
from fastadasp.serving.options import overrides

NEW, COUNT = 48, 4
ARCHITECTURE = "Qwen2AudioForConditionalGeneration"


def sounds() -> list[tuple[dict, Path]]:
    rows = [row for task in ("asr", "er") for row in read_rows(data_path(), [task], COUNT)]
    return [(row, data_path() / row["audio_filepath"]) for row in rows]


def prompts(kind: str) -> list[tuple[str, list[Any]]]:
    """Prompts with their waves: ``plain``, ``two`` clips in each, or one clip before the instruction that `kind` is."""
    waves = [read_audio(path, 16000) for _, path in sounds()]
    if kind == "plain":
        return [(build_prompt(instruction(row)), [wave]) for (row, _), wave in zip(sounds(), waves, strict=True)]
    if kind != "two":
        return [(build_prompt(kind), [wave]) for wave in waves]
    pairs = zip(waves, waves[1:] + waves[:1], strict=True)
    text = build_prompt("Which of them is louder?")
    return [(text.replace(AUDIO_PLACEHOLDER, 2 * AUDIO_PLACEHOLDER), list(pair)) for pair in pairs]


def method(setting: dict) -> Strategy:
    changes = {"budget": setting["budget"], "positions": setting["positions"]}
    return load_strategy(setting["strategy"], site="input", layers={"layer": 0}, **changes)


def reference(settings: list[dict]) -> list[list[list[int]]]:
    """Greedy tokens of transformers, one prompt at a time: for each setting with its ``ask`` and ``dtype``."""
    from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

    processor = AutoProcessor.from_pretrained(model_path(), local_files_only=True)
    load = Qwen2AudioForConditionalGeneration.from_pretrained
    model = load(model_path(), local_files_only=True, dtype=torch.float32).eval()

    def answer(text: str, waves: list[Any]) -> list[int]:
        inputs = processor(text=[text], audio=waves, sampling_rate=16000, return_tensors="pt").to(dtype=model.dtype)
        with torch.inference_mode():
            out = model.generate(**inputs, do_sample=False, max_new_tokens=NEW)
        return out[0, inputs["input_ids"].shape[1] :].tolist()

    answers = []
    for setting in settings:
        model = model.to(getattr(torch, setting.get("dtype", "float32")))
        with method(setting).apply(model) if setting["strategy"] else nullcontext():
            answers.append([answer(*prompt) for prompt in prompts(setting.get("ask", "plain"))])
    return answers


def embeddings(setting: dict) -> list[torch.Tensor]:
    """What `fastadasp export-embeddings` writes of the clips."""
    loaded = load_model(str(model_path()), "cpu")
    made = embed(loaded, method(setting), [path for _, path in sounds()])
    return [clip.features for clip in made]


def served(setting: dict | None, asks: list[dict], **options: Any) -> list[dict]:
    """Greedy tokens of vLLM with a strategy, all prompts of an ask at once, one ask after the other.

    Args:
        setting: the strategy; None for vLLM without one.
        asks: each with a ``kind`` of prompts and ``budgets`` by request, which go round, None for the server's; with
            ``embeddings``, the strategy that shortens clips outside of vLLM, which gets embeddings then.
        options: of the engine.
    """
    from vllm import LLM, SamplingParams

    standard: dict[str, Any] = {"dtype": "float32", "enforce_eager": True, "max_model_len": 1024, "max_num_seqs": 8}
    standard |= {"limit_mm_per_prompt": {"audio": 2}, "disable_log_stats": True}
    changes = {} if setting is None else overrides(setting, ARCHITECTURE)
    engine = LLM(model=str(model_path()), hf_overrides=changes, **(standard | options))
    audio = engine.get_tokenizer().convert_tokens_to_ids("<|AUDIO|>")

    def places(tokens: list[int]) -> list[int]:
        return [place for place, token in enumerate(tokens) if token == audio]

    answers = []
    for ask in asks:
        budgets = ask.get("budgets", [None])
        requests = [
            {"prompt": text, "multi_modal_data": {"audio": [(wave, 16000) for wave in waves]}}
            for text, waves in prompts(ask["kind"])
        ]
        if "embeddings" in ask:
            for request, made in zip(requests, embeddings(ask["embeddings"]), strict=True):
                request["multi_modal_data"] = {"audio": [made]}
        for i, request in enumerate(requests):
            if (budget := budgets[i % len(budgets)]) is not None:
                request["mm_processor_kwargs"] = {"fastadasp_budget": budget}
        outs = engine.generate(requests, SamplingParams(temperature=0, max_tokens=NEW), use_tqdm=False)
        answers.append(
            {
                "tokens": [list(out.outputs[0].token_ids) for out in outs],
                "clips": [places(out.prompt_token_ids) for out in outs],
                "cached": [out.num_cached_tokens for out in outs],
                "compiles": engine.llm_engine.vllm_config.compilation_config.mode > 0,
            }
        )
    end(engine)
    return answers


if __name__ == "__main__":
    what, given = (json.loads(argument) for argument in sys.argv[1:])
    if what == "reference":
        print("\nRESULT " + json.dumps(reference(given)))
    else:
        for asked in given:
            print("\nRESULT " + json.dumps(served(**asked)), flush=True)
