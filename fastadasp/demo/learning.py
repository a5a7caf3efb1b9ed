"""The training loop: answers only, features of the frozen encoder, mixed tasks."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fastadasp.demo import prompts
from fastadasp.demo.corpus import Clip

SHARES = {"asr": 0.32, "st": 0.24, "sqa": 0.26, "er": 0.11, "gender": 0.07}
"""Share of the training samples each task gets."""


@dataclass(frozen=True)
class Plan:
    """How long and how hard to train. The learning rate follows the larger of the shares of steps and minutes used."""

    steps: int = 4000
    minutes: float = math.inf
    rate: float = 1e-3
    warmup: int = 100
    tokens: int = 3600
    checkpoint_minutes: float = 4.0
    seed: int = 0


class Sampler:
    """Draws batches of samples of similar length: at most `tokens` positions each."""

    def __init__(self, clips: list[Clip], tokenizer: Any, tokens: int, rng: np.random.Generator) -> None:
        self.clips, self.tokens, self.rng = clips, tokens, rng
        self.encode: Callable[[str], list[int]] = lambda text: tokenizer(text).input_ids
        self.by_task: dict[str, list[tuple[int, int]]] = {task: [] for task in SHARES}
        for c, clip in enumerate(clips):
            for q, (task, _, _) in enumerate(clip.questions):
                self.by_task[task].append((c, q))
        self.before = self.encode("<|audio_bos|>")

    def _draw(self) -> tuple[Tensor, list[int], list[int]]:
        task = str(self.rng.choice(list(SHARES), p=list(SHARES.values())))
        c, q = self.by_task[task][int(self.rng.integers(len(self.by_task[task])))]
        _, asked, answer = self.clips[c].questions[q]
        # the task's own wording comes half of the time
        wording = asked[0] if self.rng.random() < 0.5 else asked[int(self.rng.integers(len(asked)))]
        prompt = self.encode(f"<|audio_eos|>{wording}{prompts.ANSWER_MARKER}")
        return self.clips[c].features, prompt, self.encode(answer + prompts.END_OF_TEXT)

    def __iter__(self) -> Iterator[list[tuple[Tensor, list[int], list[int]]]]:
        while True:
            pool = sorted((self._draw() for _ in range(384)), key=lambda s: len(s[0]) + len(s[1]) + len(s[2]))
            batches, batch = [], []
            for sample in pool:
                length = len(sample[0]) + len(sample[1]) + len(sample[2]) + 1
                if batch and (len(batch) + 1) * length > self.tokens:
                    batches.append(batch)
                    batch = []
                batch.append(sample)
            batches.append(batch)
            self.rng.shuffle(batches)
            yield from batches


def mask_spans(features: Tensor, rng: np.random.Generator) -> Tensor:
    """Augments one clip's features [audio tokens, width]: spans set to zero, channels scaled, a little noise."""
    out = features.float() * torch.empty(features.shape[1]).uniform_(0.9, 1.1)
    out += 0.05 * torch.randn_like(out)
    if rng.random() < 0.5:
        for _ in range(int(rng.integers(1, 3))):
            width = int(rng.integers(1, 6))
            begin = int(rng.integers(0, max(len(out) - width, 1)))
            out[begin : begin + width] = 0
    return out


def loss_of(model: Any, batch: list[tuple[Tensor, list[int], list[int]]], before: list[int], rng: np.random.Generator) -> Tensor:
    """Cross-entropy of the answers; samples padded on the right, so that causality alone is the mask."""
    inner = model.model
    device = model.device
    embed = inner.language_model.embed_tokens
    rows, labels = [], []
    features = torch.cat([mask_spans(f, rng) for f, _, _ in batch]).to(device)
    audio = functional.dropout(inner.multi_modal_projector(features), 0.1).split([len(f) for f, _, _ in batch])
    start = embed(torch.tensor(before, device=device))
    for sound, (_, prompt, answer) in zip(audio, batch, strict=True):
        text = embed(torch.tensor([*prompt, *answer[:-1]], device=device))
        rows.append(torch.cat([start, sound.to(start.dtype), text]))
        silent = len(before) + len(sound) + len(prompt) - 1
        labels.append(torch.tensor([-100] * silent + answer, device=device))
    states = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    targets = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
    hidden = inner.language_model(inputs_embeds=states, use_cache=False).last_hidden_state
    spoken = targets != -100
    return functional.cross_entropy(model.lm_head(hidden[spoken]).float(), targets[spoken], label_smoothing=0.05)


def train(
    model: Any,
    tokenizer: Any,
    clips: list[Clip],
    plan: Plan,
    log: Path,
    save: Callable[[dict[str, Any]], None],
    progress: Callable[[float, str], None],
    resume: dict[str, Any] | None = None,
) -> None:
    """Trains in place. `save` gets the optimiser's state every few minutes and at the end, `progress` the share done."""
    rng = np.random.default_rng(plan.seed + (resume["step"] if resume else 0))
    torch.manual_seed(plan.seed)
    weights = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.dim() > 1], "weight_decay": 0.05},
        {"params": [p for p in weights if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.98))
    step, used = 0, 0.0
    if resume:
        optimiser.load_state_dict(resume["optimiser"])
        step, used = resume["step"], resume["seconds"]
    model.train()
    model.model.audio_tower.eval()
    began, saved, smooth = time.monotonic() - used, time.monotonic(), 0.0
    sampler = Sampler(clips, tokenizer, plan.tokens, rng)
    for batch in sampler:
        seconds = time.monotonic() - began
        done = max(step / plan.steps, seconds / 60 / plan.minutes)
        if done >= 1:
            break
        rate = plan.rate * min(1.0, (step + 1) / plan.warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(model.device.type, dtype=torch.bfloat16):
            loss = loss_of(model, batch, sampler.before, rng)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        step += 1
        smooth = 0.98 * smooth + 0.02 * loss.item() if step > 1 else loss.item()
        progress(done, f"step {step}  loss {smooth:.3f}")
        if step % 20 == 0:
            with log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"step": step, "seconds": round(seconds, 1), "loss": smooth, "rate": rate}) + "\n")
        if time.monotonic() - saved > 60 * plan.checkpoint_minutes:
            save({"step": step, "seconds": time.monotonic() - began, "optimiser": optimiser.state_dict()})
            saved = time.monotonic()
    model.eval()
    save({"step": step, "seconds": time.monotonic() - began, "optimiser": optimiser.state_dict()})
