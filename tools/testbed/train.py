"""Second stage: projector and LoRA learn with the decoder's own loss.

python -m tools.testbed.train --decoder FOLDER_OR_HUB_ID --features FOLDER [...] --init FOLDER --out FOLDER

--init begins with the weights of a folder or file (those of align.py, or an adapter.safetensors); --resume goes on with
the state of --out, optimiser included. Every `--every` steps the clips kept for choosing are transcribed; the best
weights are kept as best.safetensors.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastadasp.tasks import metrics
from fastadasp.testbed import make_projector, prompts
from fastadasp.testbed.adapter import write_adapter
from tools.testbed.keeping import Keeper, rate_at, weights_of
from tools.testbed.lora import add_lora
from tools.testbed.store import Line, batches, padded, read_store

IGNORED = -100


def question(text: str, words: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """An instruction and its answer: mostly the transcript. `words` are those that may be asked for and not spoken."""
    task = rng.choices(("asr", "first", "last", "spoken"), (0.85, 0.04, 0.03, 0.08))[0]
    asked, spoken = rng.choice(prompts.INSTRUCTIONS[task]), text.split()
    if task == "spoken":
        word = rng.choice(spoken if rng.random() < 0.5 else words)
        return asked.format(word=word), "yes" if word in spoken else "no"
    return asked, {"asr": text, "first": spoken[0], "last": spoken[-1]}[task]


class Bed(nn.Module):
    """Decoder with LoRA and projector, over encoder frames that are computed already."""

    def __init__(self, decoder: Any, tokenizer: Any, projector: nn.Module) -> None:
        super().__init__()
        self.decoder, self.tokenizer, self.projector = decoder, tokenizer, projector
        start, end = (self._ids(t) for t in _around_audio())
        self.start, self.end = start, end

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def embed(self, ids: Sequence[int]) -> Tensor:
        table: Tensor = self.decoder.get_input_embeddings()(torch.tensor(ids, dtype=torch.long))
        return table

    def prompt(self, audio: Tensor, instruction: str) -> Tensor:
        """[tokens, 4 * width] -> [positions, D]."""
        after = self._ids(instruction + prompts.BETWEEN)
        sound = self.projector(audio)
        return torch.cat([self.embed(self.start), sound.to(self.embed([0]).dtype), self.embed([*self.end, *after])])

    def loss(self, batch: Sequence[Line], asked: Sequence[tuple[str, str]]) -> Tensor:
        """Mean cross entropy of the answers' tokens."""
        audio, lengths = padded(batch)
        sounds = self.projector(audio)
        dtype = self.embed([0]).dtype
        rows, targets = [], []
        for sound, length, (instruction, answer) in zip(sounds, lengths, asked, strict=True):
            ids = self._ids(answer + prompts.END)
            after = [*self.end, *self._ids(instruction + prompts.BETWEEN), *ids]
            row = torch.cat([self.embed(self.start), sound[:length].to(dtype), self.embed(after)])
            rows.append(row)
            targets.append(torch.tensor([IGNORED] * (len(row) - len(ids) - 1) + ids))
        embeddings = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        wanted = nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=IGNORED)
        mask = torch.arange(embeddings.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        hidden = self.decoder.model(inputs_embeds=embeddings, attention_mask=mask.long(), use_cache=False)[0][:, :-1]
        wanted = functional.pad(wanted, (0, hidden.shape[1] - wanted.shape[1]), value=IGNORED)
        answers = wanted != IGNORED
        return functional.cross_entropy(self.decoder.lm_head(hidden[answers]).float(), wanted[answers])

    @torch.inference_mode()
    def answer(self, line: Line, instruction: str = prompts.TRANSCRIBE) -> str:
        prompt = self.prompt(line.audio(), instruction)[None]
        out = self.decoder.generate(
            inputs_embeds=prompt,
            attention_mask=torch.ones(prompt.shape[:2], dtype=torch.long),
            max_new_tokens=line.length // 8 + 12,
            do_sample=False,
        )
        return str(self.tokenizer.decode(out[0], skip_special_tokens=True)).strip()


def _around_audio() -> tuple[str, str]:
    """What stands before and after the sound, in the tokenizer's own names for the special tokens."""
    from fastadasp.testbed.shape import RENAMED

    own = {new: old for old, new in RENAMED.items()}
    return prompts.BEFORE + own["<|audio_bos|>"], own["<|audio_eos|>"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decoder", required=True)
    parser.add_argument("--features", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--width", type=int, default=512, help="of the encoder")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=600, help="audio tokens in a batch")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--projector-rate", type=float, default=0.2, help="share of --rate for the projector")
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--choose", type=int, default=16, help="clips of those kept for choosing")
    parser.add_argument("--repeat-real", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    asked = parser.parse_args()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(asked.decoder, trust_remote_code=False)
    decoder = AutoModelForCausalLM.from_pretrained(asked.decoder, dtype=torch.bfloat16, trust_remote_code=False)
    decoder.requires_grad_(False)
    weights = dict(add_lora(decoder.model.layers, asked.rank, 2.0))
    projector = make_projector(asked.width, decoder.config)
    weights |= {f"projector.{n}": p for n, p in projector.named_parameters()}
    if asked.init:
        given = weights_of(asked.init)
        with torch.no_grad():
            for name in weights.keys() & given.keys():
                weights[name].copy_(given[name])
    bed = Bed(decoder, tokenizer, projector)
    groups = [
        {"params": [w for n, w in weights.items() if n.startswith("projector.") == aligned], "share": share}
        for aligned, share in ((False, 1.0), (True, asked.projector_rate))
    ]
    optimiser = torch.optim.AdamW(groups, lr=asked.rate, weight_decay=0.0, betas=(0.9, 0.98))
    keeper, first, best = Keeper(asked.out), 0, float("inf")
    if asked.resume and (state := keeper.state()):
        with torch.no_grad():
            for name, value in state["parameters"].items():
                weights[name].copy_(value)
        optimiser.load_state_dict(state["optimiser"])
        first, best = state["step"], state["best"]
    lines = read_store(asked.features, asked.width)
    chosen = [line for line in lines if line.split == "choose"][: asked.choose]
    train = [line for line in lines if line.split == "train" and line.text]
    words = sorted({word for line in train for word in line.text.split()})
    rng, total = random.Random(first), 0.0
    about = {"scale": 2.0, "encoder": "openai/whisper-base", "decoder": "HuggingFaceTB/SmolLM2-135M-Instruct"}
    bed.train()
    drawn = batches(train, asked.tokens, first, asked.repeat_real)
    for step, batch in zip(range(first, asked.steps), drawn, strict=False):
        for group in optimiser.param_groups:
            group["lr"] = group["share"] * rate_at(step, asked.steps, asked.rate, 20)
        loss = bed.loss(batch, [question(line.text, words, rng) for line in batch])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        optimiser.step()
        total += float(loss.detach())
        if (step + 1) % asked.every == 0 or step + 1 == asked.steps:
            bed.eval()
            said = [bed.answer(line) for line in chosen]
            bed.train()
            wer = metrics.word_error_rate(said, [line.text for line in chosen])["wer"] if chosen else float("nan")
            keeper.log(step=step + 1, loss=round(total / asked.every, 3), wer=round(wer, 1), said=said[:2])
            total = 0.0
            if wer < best:
                best = wer
                write_adapter(asked.out / "best.safetensors", dict(weights), step=step + 1, **about)
            state = {"parameters": {n: w.detach() for n, w in weights.items()}, "optimiser": optimiser.state_dict()}
            keeper.save(dict(weights), step + 1, best=best, **state)


if __name__ == "__main__":
    main()
