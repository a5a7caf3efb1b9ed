"""First stage: the projector alone learns to land on the decoder's own token embeddings.

python -m tools.testbed.align --decoder FOLDER_OR_HUB_ID --features FOLDER [...] --out FOLDER [--steps 2000] [--resume]

The decoder's embedding matrix is the output layer of a CTC (Graves et al., ICML 2006) over its tokens and one blank, so
no pass of the decoder is needed. A step's CTC runs over the tokens of its clips and `--others` drawn ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fastadasp.tasks import metrics
from fastadasp.testbed import make_projector
from tools.testbed.keeping import Keeper, rate_at, weights_of
from tools.testbed.store import Line, batches, padded, read_store


class Aligner(nn.Module):
    """The projector, a blank and a temperature over fixed embeddings [V, D]; blank is the first of its outputs."""

    embeddings: Tensor

    def __init__(self, projector: nn.Module, embeddings: Tensor) -> None:
        super().__init__()
        self.projector: nn.Module = projector
        self.register_buffer("embeddings", embeddings, persistent=False)
        self.blank = nn.Parameter(torch.zeros(embeddings.shape[1]))
        self.blank_bias = nn.Parameter(torch.tensor(2.0))
        self.sharpness = nn.Parameter(torch.tensor(0.0))

    def forward(self, audio: Tensor, rows: Tensor) -> Tensor:
        """[B, T, 4 * width], rows [R] of the embeddings -> log probabilities [B, T, 1 + R], blank first."""
        out = self.projector(audio)
        scores = out @ self.embeddings[rows].T * self.sharpness.exp()
        blank = out @ self.blank + self.blank_bias
        return functional.log_softmax(torch.cat([blank.unsqueeze(-1), scores], -1).float(), -1)


def ctc(
    model: Aligner, batch: Sequence[Line], targets: Sequence[list[int]], others: Tensor, dropout: float = 0.0
) -> Tensor:
    """The loss per target token.

    Args:
        targets: of each clip, rows of the embeddings.
        others: further rows that compete.
        dropout: share of the encoder's channels that a token goes without.
    """
    rows, place = torch.unique(torch.tensor([t for target in targets for t in target]), return_inverse=True)
    extra = others[~torch.isin(others, rows)]
    audio, lengths = padded(batch)
    with torch.autocast("cpu", torch.bfloat16):
        scores = model(functional.dropout(audio, dropout), torch.cat([rows, extra]))
    sizes = torch.tensor([len(target) for target in targets])
    loss = functional.ctc_loss(
        scores.transpose(0, 1), place + 1, lengths, sizes, blank=0, reduction="sum", zero_infinity=True
    )
    return loss / sizes.sum()


@torch.inference_mode()
def read_back(model: Aligner, lines: Sequence[Line], tokenizer: Any, known: Tensor) -> list[str]:
    """What each clip's best path says."""
    said = []
    rows = torch.arange(len(known))
    for line in lines:
        best = model(line.audio()[None], rows)[0].argmax(-1)
        best = torch.unique_consecutive(best)
        said.append(tokenizer.decode(known[best[best > 0] - 1].tolist()).strip())
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decoder", required=True)
    parser.add_argument("--features", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=512, help="of the encoder")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=1500, help="audio tokens in a batch")
    parser.add_argument("--others", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--dropout", type=float, default=0.15)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--repeat-real", type=int, default=2)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--resume", action="store_true")
    asked = parser.parse_args()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(asked.decoder, trust_remote_code=False)
    decoder = AutoModelForCausalLM.from_pretrained(asked.decoder, dtype=torch.float32, trust_remote_code=False)
    lines = read_store(asked.features, asked.width)
    targets = {id(line): tokenizer(" " + line.text).input_ids for line in lines}
    lines = [line for line in lines if 0 < len(targets[id(line)]) < 0.8 * line.length / 4]
    known = torch.tensor(sorted({t for line in lines for t in targets[id(line)]}))
    row_of = {int(t): i for i, t in enumerate(known)}
    chosen = [line for line in lines if line.split == "choose"]
    train = [line for line in lines if line.split == "train"]
    table: Any = decoder.get_input_embeddings()
    embeddings = table.weight.detach()[known].clone()
    projector: Any = make_projector(asked.width, decoder.config)
    with torch.no_grad():
        projector.norm.weight.fill_(float(embeddings.std()))
        projector.norm.bias.copy_(embeddings.mean(0))
    del decoder
    model = Aligner(projector, embeddings)
    if asked.init:
        given = weights_of(asked.init)
        projector.load_state_dict({n.removeprefix("projector."): w for n, w in given.items() if "projector" in n})
    optimiser = torch.optim.AdamW(model.parameters(), lr=asked.rate, weight_decay=0.01, betas=(0.9, 0.98))
    keeper, first = Keeper(asked.out), 0
    if asked.resume and (state := keeper.state()):
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    hours = sum(line.length for line in train) / 180_000
    print(f"{len(train)} clips, {hours:.2f} hours, {len(known)} tokens", flush=True)
    rng = np.random.default_rng(first)
    total = 0.0
    drawn = batches(train, asked.tokens, first, asked.repeat_real)
    for step, batch in zip(range(first, asked.steps), drawn, strict=False):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, asked.steps, asked.rate)
        others = torch.from_numpy(rng.choice(len(known), min(asked.others, len(known)), replace=False))
        wanted = [[row_of[t] for t in targets[id(line)]] for line in batch]
        loss = ctc(model, batch, wanted, others, asked.dropout)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        total += float(loss.detach())
        if (step + 1) % asked.every == 0 or step + 1 == asked.steps:
            said = read_back(model, chosen, tokenizer, known)
            wer = metrics.word_error_rate(said, [line.text for line in chosen])["wer"] if chosen else None
            keeper.log(step=step + 1, loss=round(total / asked.every, 3), wer=wer, said=said[:2])
            total = 0.0
            weights = {f"projector.{n}": w for n, w in projector.state_dict().items()}
            keeper.save(weights, step + 1, model=model.state_dict(), optimiser=optimiser.state_dict())


if __name__ == "__main__":
    main()
