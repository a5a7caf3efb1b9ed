"""Errors of cheap received attention against exact one, for docs/performance.md: ``python docs/score_errors.py``."""

from __future__ import annotations

from statistics import median
from typing import Literal

from torch import Tensor

import fastadasp
from fastadasp.demo import model_path
from fastadasp.experiments.sweep import rank_correlation
from fastadasp.inference.clips import prepare
from fastadasp.inference.runner import run_cell

CLIPS = 24
OPTIONS: tuple[tuple[float, Literal["strided", "last"]], ...] = (
    (0.5, "strided"),
    (0.25, "strided"),
    (0.1, "strided"),
    (0.05, "strided"),
    (0.5, "last"),
    (0.25, "last"),
)
FOUND: dict[tuple[float, str], list[tuple[float, float]]] = {option: [] for option in OPTIONS}
"""Relative error and rank correlation of each option in each acting layer of each clip."""


class Compared(fastadasp.Scorer):
    """Gives the exact scores, and keeps how far the cheap ones are from them."""

    name = "compared"
    gives = ("importance",)
    needs = frozenset({"attention"})

    def importance(self, layer: fastadasp.LayerView) -> Tensor:
        exact = layer.received_attention()
        for queries, which in OPTIONS:
            cheap = layer.received_attention(queries, which)
            # A sum over fewer queries is smaller: what counts is a token's share.
            ours, theirs = cheap / cheap.sum(), exact / exact.sum()
            error = float((ours - theirs).norm() / theirs.norm())
            FOUND[queries, which].append((error, rank_correlation(cheap[0].tolist(), exact[0].tolist()) or 0.0))
        return exact


def quiet(_: int) -> None:
    """Progress that nobody watches."""


def main() -> None:
    loaded = fastadasp.load_model(str(model_path()))
    strategy = fastadasp.load_strategy("fastadasp-dense", weight=Compared(), flops=0.3)
    examples = fastadasp.get_registry().get("task", "asr").examples(CLIPS)
    clips = prepare(loaded, examples, 1, quiet)
    asked = [clips[str(example.audio), example.instruction] for example in examples]
    run_cell(loaded, strategy, asked, max_new_tokens=1, batch_size=1, progress=quiet)
    for (queries, which), found in FOUND.items():
        errors, ranks = zip(*found, strict=True)
        print(
            f"{queries} {which}: {len(found)} layers, error {median(errors):.2f} ({max(errors):.2f}), "
            f"rank correlation {median(ranks):.3f} ({min(ranks):.2f})"
        )


if __name__ == "__main__":
    main()
