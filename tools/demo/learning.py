"""The training loop: answers only, features of the frozen encoder, mixed tasks."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from fastadasp.demo import prompts
from tools.demo.corpus import Clip

SHARES = {"asr": 0.48, "sqa": 0.22, "er": 0.14, "gender": 0.16}
"""Share of the training clips drawn for the sake of each task; all that is asked about a clip is trained at once."""

WEIGHTS = {"asr": 1.5, "st": 1.5, "sqa": 1.0, "er": 5.0, "gender": 5.0}
"""How much an answer counts in the loss; the tasks with one short answer a clip would else be drowned out."""

TOKENS_A_SECOND = 25
"""Audio tokens of the encoder."""

Sample = tuple[Tensor, list[tuple[list[int], list[int], float]]]
"""Features [audio tokens, width] of a clip, and (prompt token ids, answer token ids, weight) of each question."""


@dataclass(frozen=True)
class Plan:
    """How long and how hard to train. The learning rate follows the larger of the shares of steps and minutes used."""

    steps: int = 4000
    minutes: float = math.inf
    rate: float = 1e-3
    warmup: int = 100
    tokens: int = 3600
    checkpoint_minutes: float = 3.0
    compile: bool = False
    workers: int = 1
    seed: int = 0
    growing: float = 0.3
    """Share of the training in which the longest clips grow from 6 s to 30 s; 0 for all lengths from the beginning."""


class Sampler:
    """Draws batches of clips of similar length: at most `tokens` positions each."""

    def __init__(self, clips: list[Clip], tokenizer: Any, tokens: int, rng: np.random.Generator) -> None:
        self.clips, self.tokens, self.rng = clips, tokens, rng
        self.encode: Callable[[str], list[int]] = lru_cache(maxsize=65536)(lambda text: tokenizer(text).input_ids)
        self.by_task: dict[str, list[int]] = {
            task: [c for c, clip in enumerate(clips) if task in (asked for asked, _, _ in clip.questions)]
            for task in SHARES
        }
        self.groups: dict[str, list[list[int]]] = {}
        for task, own in self.by_task.items():
            named: dict[str, list[int]] = {}
            for c in own:
                named.setdefault(clips[c].group, []).append(c)
            self.groups[task] = list(named.values())
        self.longest = max((len(clip.features) for clip in clips), default=0)
        """Audio tokens of the longest clip that is drawn."""
        self.before = self.encode("<|audio_bos|>")

    def _draw(self) -> Sample:
        task = str(self.rng.choice(list(SHARES), p=list(SHARES.values())))
        for _ in range(100):
            group = self.groups[task][int(self.rng.integers(len(self.groups[task])))]
            clip = self.clips[group[int(self.rng.integers(len(group)))]]
            if len(clip.features) <= self.longest:
                break
        pairs = []
        for task, asked, answer in clip.questions:
            # the task's own wording comes half of the time
            wording = asked[0] if self.rng.random() < 0.5 else asked[int(self.rng.integers(len(asked)))]
            prompt = self.encode(f"<|audio_eos|>{wording}{prompts.ANSWER_MARKER}")
            pairs.append((prompt, self.encode(answer + prompts.END_OF_TEXT), WEIGHTS[task]))
        return clip.features, pairs

    def _length(self, sample: Sample) -> int:
        return len(self.before) + len(sample[0]) + sum(len(p) + len(a) - 1 for p, a, _ in sample[1])

    def __iter__(self) -> Iterator[list[Sample]]:
        while True:
            batches: list[list[Sample]] = [[]]
            for sample in sorted((self._draw() for _ in range(256)), key=self._length):
                if (len(batches[-1]) + 1) * self._length(sample) > self.tokens and batches[-1]:
                    batches.append([])
                batches[-1].append(sample)
            for index in self.rng.permutation(len(batches)):
                yield batches[int(index)]


def mask_spans(features: Tensor, rng: np.random.Generator) -> Tensor:
    """Augments one clip's features [audio tokens, width]: spans set to zero, channels scaled, a little noise."""
    out = features.float() * torch.empty(features.shape[1]).uniform_(0.9, 1.1)
    out += 0.05 * torch.randn_like(out)
    if rng.random() < 0.4:
        for _ in range(int(rng.integers(1, 3))):
            width = int(rng.integers(1, 4))  # up to 0.12 s: no word is lost
            begin = int(rng.integers(0, max(len(out) - width, 1)))
            out[begin : begin + width] = 0
    return out


def loss_of(model: Any, batch: list[Sample], before: list[int], rng: np.random.Generator) -> Tensor:
    """Cross-entropy of the answers.

    All questions about a clip share one row: each sees the sound and itself, at the positions it has when asked alone.
    An answer's tokens weigh its task's weight / sqrt(their number), so that one-word answers count beside long ones.
    """
    inner = model.model
    device = model.device
    embed = inner.language_model.embed_tokens
    features = torch.cat([mask_spans(f, rng) for f, _ in batch]).to(device)
    audio = functional.dropout(inner.multi_modal_projector(features), 0.1).split([len(f) for f, _ in batch])
    start = embed(torch.tensor(before, device=device))
    rows, labels, weights, segments, positions = [], [], [], [], []
    for sound, (_, pairs) in zip(audio, batch, strict=True):
        shared = len(before) + len(sound)
        ids, label, weight, segment, position = [], [-100] * shared, [0.0] * shared, [0] * shared, list(range(shared))
        for number, (prompt, answer, counts) in enumerate(pairs, 1):
            length = len(prompt) + len(answer) - 1
            ids += [*prompt, *answer[:-1]]
            label += [-100] * (len(prompt) - 1) + answer
            weight += [counts * len(answer) ** -0.5] * length
            segment += [number] * length
            position += range(shared, shared + length)
        rows.append(torch.cat([start, sound.to(start.dtype), embed(torch.tensor(ids, device=device))]))
        labels.append(torch.tensor(label))
        weights.append(torch.tensor(weight))
        segments.append(torch.tensor(segment))
        positions.append(torch.tensor(position))
    states = pad_sequence(rows, batch_first=True)
    targets = pad_sequence(labels, batch_first=True, padding_value=-100).to(device)
    part = pad_sequence(segments, batch_first=True).to(device)
    length = part.shape[1]
    sees = (part[:, None, :] == 0) | (part[:, None, :] == part[:, :, None])
    sees &= torch.ones(length, length, dtype=torch.bool, device=device).tril()
    hidden = inner.language_model(
        inputs_embeds=states,
        attention_mask=sees[:, None],
        position_ids=pad_sequence(positions, batch_first=True).to(device),
        use_cache=False,
    ).last_hidden_state
    spoken = targets != -100
    share: Tensor = pad_sequence(weights, batch_first=True).to(device)[spoken]
    logits = model.lm_head(hidden[spoken]).float()
    each: Tensor = functional.cross_entropy(logits, targets[spoken], label_smoothing=0.05, reduction="none")
    return (each * share).sum() / share.sum()


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
    """Trains in place. `save` gets the optimiser's state every few minutes and at the end."""
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
    if plan.compile:
        for layer in model.model.language_model.layers:
            layer.compile(dynamic=True)

    def learn(part: list[Sample]) -> float:
        with torch.autocast(model.device.type, dtype=torch.bfloat16):
            loss = loss_of(model, part, sampler.before, np.random.default_rng(int(torch.randint(1 << 31, ()))))
        loss.backward()
        return loss.item()

    threads = torch.get_num_threads() if plan.workers == 1 else 1
    pool = ThreadPoolExecutor(plan.workers, initializer=torch.set_num_threads, initargs=(threads,))
    torch.set_num_threads(threads)
    began, saved, smooth = time.monotonic() - used, time.monotonic(), math.nan
    sampler = Sampler(clips, tokenizer, plan.tokens, rng)
    batches = iter(sampler)
    while True:
        seconds = time.monotonic() - began
        done = max(step / plan.steps, seconds / 60 / plan.minutes)
        if done >= 1:
            break
        grown = 1.0 if plan.growing <= 0 else min(1.0, done / plan.growing)
        sampler.longest = round((6 + 24 * grown) * TOKENS_A_SECOND)
        batch = next(batches)  # after `longest`, which the first draw follows too
        rate = plan.rate * min(1.0, (step + 1) / plan.warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss = sum(pool.map(learn, [batch[i :: plan.workers] for i in range(plan.workers) if batch[i :: plan.workers]]))
        for weight in weights:
            if weight.grad is not None:
                weight.grad /= plan.workers
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        step += 1
        smooth = loss / plan.workers if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss / plan.workers
        progress(done, f"step {step}  loss {smooth:.3f}")
        if step % 20 == 0:
            with log.open("a", encoding="utf-8") as lines:
                lines.write(
                    json.dumps({"step": step, "seconds": round(seconds, 1), "loss": smooth, "rate": rate}) + "\n"
                )
        if time.monotonic() - saved > 60 * plan.checkpoint_minutes:
            save({"step": step, "seconds": time.monotonic() - began, "optimiser": optimiser.state_dict()})
            saved = time.monotonic()
    model.eval()
    save({"step": step, "seconds": time.monotonic() - began, "optimiser": optimiser.state_dict()})
