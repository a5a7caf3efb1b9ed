"""Ratios of processor time, by one thread: what can be measured on a machine that others use, too.

python docs/processor_time.py operator     # plan + merge against the loop; scores, and attention with scores
python docs/processor_time.py prefill      # a prefill of qwen3-asr-0.6b, 3,000 audio tokens; some minutes
python docs/processor_time.py scores       # exact scores of 90,000 tokens against their attention; ten minutes
python docs/processor_time.py steps        # what a strategy adds to a decoding step of 32 layers
python docs/processor_time.py hour         # one of 15, 30 and 60 minutes of audio in one prompt, in bfloat16; two hours
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from statistics import median, quantiles
from time import process_time
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import fastadasp
from fastadasp.bench import released
from fastadasp.bench.measure import applied, make_prompt
from fastadasp.bench.operator import HEAD_DIM, Case
from fastadasp.bench.shapes import build, find_shape
from fastadasp.engine.received import attend, received_attention
from fastadasp.upstream.names import cache_argument, cache_of

DTYPES = ("float32", "bfloat16")
SIZES = [(tokens, hidden) for hidden in (1024, 4096) for tokens in (750, 3000, 6000, 24000)]
PREFILLS = ("weighted", "fastadasp-dense", "fastadasp-dense-fast")


def taken(step: Callable[[], Any], times: int, warm: int = 1) -> float:
    """Seconds of processor time, median."""
    found = []
    for turn in range(-warm, times):
        begin = process_time()
        step()
        found += [process_time() - begin][: turn >= 0]
    return median(found)


def operator() -> None:
    """Plan and means against the released loop; scores; and attention with scores against attention alone."""
    for tokens, hidden in SIZES:
        for dtype in DTYPES:
            case = Case.make(tokens, hidden, dtype, "cpu")
            similar, weight = torch.rand(1, tokens - 1), torch.rand(1, tokens)
            ours = taken(lambda c=case, s=similar, w=weight: c.merge(s, w), 9)  # type: ignore[misc]
            loop = taken(
                lambda c=case, s=similar, w=weight: released.merge(c.states[0], s[0], w[0], c.removed),  # type: ignore[misc]
                3,
            )
            print(f"{tokens} x {hidden} {dtype}: plan + merge {ours * 1e3:.2f} ms, {loop / ours:.1f}x", flush=True)
    for tokens, hidden in SIZES[:-1]:
        scores = {}
        for dtype in DTYPES:
            case, scale = Case.make(tokens, hidden, dtype, "cpu"), HEAD_DIM**-0.5
            value, times = torch.randn_like(case.key), 3 if tokens < 6000 else 1
            steps: dict[str, Callable[[], Any]] = {
                "scores": lambda c=case, s=scale: received_attention(c.query, c.key, s, spans=c.spans),  # type: ignore[misc]
                "both": lambda c=case, v=value, s=scale: attend(c.query, c.key, v, s),  # type: ignore[misc]
                "attention": lambda c=case, v=value: torch.nn.functional.scaled_dot_product_attention(  # type: ignore[misc]
                    c.query, c.key, v, is_causal=True
                ),
            }
            found = {name: taken(step, times, times // 3) for name, step in steps.items()}
            scores[dtype] = found["scores"]
            print(f"{tokens} x {hidden} {dtype}: with scores {found['both'] / found['attention']:.2f} of attention")
        print(
            f"{tokens} x {hidden}: scores in bfloat16 {scores['bfloat16'] / scores['float32']:.2f} of float32",
            flush=True,
        )


def prefill() -> None:
    """Half of the FLOPs removed, against the full model."""
    for dtype in DTYPES:
        model = build(find_shape("qwen3-asr-0.6b"), "cpu", dtype, "sdpa")
        prompt, full = make_prompt(model, 3000, 50, 1), 0.0
        for name in ("full", *PREFILLS):
            chosen = None if name == "full" else fastadasp.load_strategy(name, budget="flops=0.5")
            with applied(chosen, model, prompt):
                seconds = taken(
                    lambda m=model, p=prompt: m(inputs_embeds=p.embeds, use_cache=True, logits_to_keep=1), 2
                )  # type: ignore[misc]
            full = full or seconds
            print(f"{dtype} {name}: {seconds:.1f} s, {full / seconds:.2f}x", flush=True)


def scores() -> None:
    """Exact scores of 90,000 tokens at qwen3-asr-0.6b's width, and the attention of the same layer."""
    case = Case.make(90_000, 1024, "bfloat16", "cpu")
    ours = taken(lambda: received_attention(case.query, case.key, HEAD_DIM**-0.5, spans=case.spans), 1, 0)
    theirs = taken(
        lambda: torch.nn.functional.scaled_dot_product_attention(case.query, case.key, case.key, is_causal=True), 1, 0
    )
    print(f"90,000 x 1024 bfloat16: scores {ours:.0f} s, attention {theirs:.0f} s, {ours / theirs:.2f} of it")


def steps() -> None:
    """Decoding steps of a small model with 32 layers; the cache has the plain model's length, so nothing is saved."""
    config = Qwen2Config(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=32, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval().requires_grad_(False)
    prompt = make_prompt(model, 200, 50, 1)
    chosen = {name: fastadasp.load_strategy(name, budget="ratio=0.0001") for name in ("weighted", "fastadasp-dense")}
    found: dict[str, list[float]] = {name: [] for name in ("plain", *chosen)}
    for turn in range(25):
        for place in range(len(found)):
            name = list(found)[(place + turn) % len(found)]
            with applied(chosen.get(name), model, prompt):
                cache = cache_of(model(inputs_embeds=prompt.embeds, use_cache=True, logits_to_keep=1))
                one = {"input_ids": torch.tensor([[5]]), **cache_argument(cache), "use_cache": True}
                found[name].append(taken(lambda one=one: model(**one), 40))  # type: ignore[misc]
    for name, times in found.items():
        more = quantiles([t - p for t, p in zip(times[1:], found["plain"][1:], strict=True)], n=4)
        print(
            f"{name}: {median(times[1:]) * 1e3:.2f} ms a step; more than plain: "
            + ", ".join(f"{x * 1e3:.3f}" for x in more)
        )


def hour() -> None:
    """Long prompts, each in a process of its own, so that its peak of memory is its own."""
    for name in ("weighted", "full"):
        for minutes in (15, 30, 60):
            subprocess.run([sys.executable, __file__, "minutes", str(minutes), name], check=True)


def long_prompt(minutes: int, name: str) -> None:
    """One prompt at the qwen3-asr-0.6b shape in bfloat16, with half of its audio tokens removed or the model alone."""
    shape = find_shape("qwen3-asr-0.6b")
    model = build(shape, "cpu", "bfloat16", "sdpa")
    prompt = make_prompt(model, round(60 * minutes * shape.rate), 50, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    chosen = None if name == "full" else fastadasp.load_strategy(name, budget="tokens=0.5")
    begin = process_time()
    with applied(chosen, model, prompt):
        model(inputs_embeds=prompt.embeds, use_cache=True, logits_to_keep=1)
    seconds, peak = process_time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{minutes} min, {prompt.audio:,} audio tokens, {name}: {seconds:.0f} s, peak memory of the process "
        f"{peak / 1024:,.0f} MB ({before / 1024:,.0f} MB before the prefill)",
        flush=True,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        if sys.argv[1] == "minutes":
            long_prompt(int(sys.argv[2]), sys.argv[3])
        else:
            {"operator": operator, "prefill": prefill, "scores": scores, "steps": steps, "hour": hour}[sys.argv[1]]()
