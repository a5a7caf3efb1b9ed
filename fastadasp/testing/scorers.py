"""The check of scorers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastadasp.contracts.components import ScoreKind, Scorer
from fastadasp.engine.heads import by_head
from fastadasp.engine.view import LayerView
from fastadasp.testing.component import component
from fastadasp.testing.device import check_device_use
from fastadasp.testing.failure import Subject, describe, difference
from fastadasp.testing.order import check_scorer_order
from fastadasp.testing.purity import called_twice
from fastadasp.testing.views import PROMPTS, SIDES, SINGLE, WITHOUT_TEXT, devices, rows_of, view_of, words

CLOSE = 1e-4
"""Largest difference, in float32 and relative to the largest score, between a clip's scores alone and in a batch."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@torch.no_grad()
def check_scorer(scorer: Scorer | type[Scorer] | str) -> None:
    """Checks that a scorer keeps its contract.

    What it gives has the right shape, dtype and device, in batches padded on either side and for clips of one token; no
    padding and no other clip has an influence; the same comes out again, whatever the state of torch's generators; it
    follows the strategy's seed if and only if it says `seeded`; it needs what it says in `needs`, the tokens' order
    included; it changes nothing that it is shown, does not wait for the device and makes no tensor of N x N.

    Args:
        scorer: an object, a class (made with its defaults) or an installed name.

    Raises:
        ConformanceError: it does not.
    """
    made, subject = component("scorer", scorer, Scorer)
    for kind in made.gives:
        score = made.importance if kind == "importance" else made.affinity
        for device in devices():
            _check_on(device, subject, kind, score)
            if device == "cpu":
                _check_padding(subject, kind, score)
                _check_seed(subject, kind, made)
                _check_needs(subject, kind, made)
                check_device_use(subject.when(f"{kind}(layer)"), score, view_of(PROMPTS))
                check_scorer_order(subject, kind, made)
    if "importance" in made.gives:
        heads = by_head(view_of(PROMPTS))
        subject = subject.when(f"importance(layer) of each key/value head, one a row (site cache); {words(heads)}")
        _expect_scores(subject, heads, "importance", subject.call("scores", made.importance, heads))


def _check_on(device: str, subject: Subject, kind: ScoreKind, score: Callable[[LayerView], Tensor]) -> None:
    for dtype in DTYPES:
        for side in SIDES:
            _check_scores(subject, kind, score, view_of(PROMPTS, side=side, dtype=dtype, device=device), side)
    _check_scores(subject, kind, score, view_of(SINGLE, device=device), "left")
    _check_each_alone(subject, kind, score, device)


def _check_scores(
    subject: Subject, kind: ScoreKind, score: Callable[[LayerView], Tensor], view: LayerView, side: str
) -> None:
    subject = subject.when(f"{kind}(layer); {words(view)}, padded on the {side}")
    first, again = called_twice(subject, score, view)
    _expect_scores(subject, view, kind, first)
    subject.expect(bool(_real(view, kind, first).isfinite().all()), "scores that are not finite", "finite scores")
    subject.expect(
        torch.equal(_real(view, kind, first), _real(view, kind, again)),
        f"other scores when called again: {difference(_real(view, kind, first), _real(view, kind, again))}",
        "the same scores every time; noise comes from layer.noise()",
    )


def _expect_scores(subject: Subject, view: LayerView, kind: ScoreKind, scores: Any) -> None:
    pairs = kind == "affinity"
    shape = (len(view.tokens), max(view.spans.longest - pairs, 0))
    what = "one for each pair of neighbours" if pairs else "one for each token"
    good = isinstance(scores, Tensor) and scores.shape == shape and scores.is_floating_point()
    good = good and scores.device == view.states.device
    subject.expect(good, describe(scores), f"floating point scores of shape {shape}, {what}, on the view's device")


def _real(view: LayerView, kind: ScoreKind, scores: Tensor) -> Tensor:
    """The scores that mean something: those of tokens, or of pairs of them."""
    return scores[view.valid if kind == "importance" else view.valid[:, 1:]]


def _check_each_alone(subject: Subject, kind: ScoreKind, score: Callable[[LayerView], Tensor], device: str) -> None:
    """A prompt gets in a batch what it gets alone."""
    for side in SIDES:
        together = score(view_of(PROMPTS, side=side, device=device))
        for prompt, rows in rows_of(PROMPTS):
            alone = view_of((prompt,), device=device)
            subject_ = subject.when(f"{kind}(layer); {words(alone)}, alone and in a batch padded on the {side}")
            ours, theirs = _real(alone, kind, score(alone)), together[rows]
            theirs = _real(alone, kind, theirs[:, : alone.valid.shape[1] - (kind == "affinity")])
            if ours.numel():
                subject_.expect(_close(ours, theirs), difference(ours, theirs), "the same scores in any company")


def _check_padding(subject: Subject, kind: ScoreKind, score: Callable[[LayerView], Tensor]) -> None:
    subject = subject.when(f"{kind}(layer), once with zeros and once with large numbers in the padding of prompts")
    for side in SIDES:
        plain, junk = (view_of(PROMPTS, side=side, padding=size) for size in (0.0, 100.0))
        ours, theirs = _real(plain, kind, score(plain)), _real(junk, kind, score(junk))
        subject.expect(_close(ours, theirs), difference(ours, theirs), "scores that padding has no influence on")


def _check_seed(subject: Subject, kind: ScoreKind, scorer: Scorer) -> None:
    views = [view_of(PROMPTS, seed=seed) for seed in (0, 1)]
    first, other = (_real(view, kind, getattr(scorer, kind)(view)) for view in views)
    same = torch.equal(first, other)
    subject = subject.when(f"{kind}(layer) with the strategy's seed 0 and 1")
    if scorer.seeded:
        subject.expect(not same, "the same scores", "other scores, since the class says seeded = True")
    else:
        subject.expect(same, difference(first, other), "the same scores, since the class does not say seeded = True")


def _check_needs(subject: Subject, kind: ScoreKind, scorer: Scorer) -> None:
    """What is not among its needs may be missing."""
    missing = {
        "attention": ("before the first layer, where there are no queries and keys", PROMPTS, False),
        "text": ("prompts of audio alone", WITHOUT_TEXT, True),
    }
    for need, (where, prompts, attention) in missing.items():
        if need not in scorer.needed():
            view = view_of(prompts, attention=attention)
            subject_ = subject.when(f"{kind}(layer), {where}; its needs are {sorted(scorer.needed())}")
            scores = subject_.call(f"scores, or {need!r} among its needs", getattr(scorer, kind), view)
            _expect_scores(subject_, view, kind, scores)


def _close(ours: Tensor, theirs: Tensor) -> bool:
    scale = float(ours.abs().max()) if ours.numel() else 0.0
    return torch.allclose(ours.float(), theirs.float(), rtol=0, atol=CLOSE * max(scale, 1e-3))
