"""Metrics, by the libraries that the field uses. All in percent or points."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastadasp.tasks.task import Tally


def normalise(text: str) -> str:
    """Lower case, no punctuation, single spaces."""
    return " ".join(re.sub(r"[^\w\s']", " ", text.lower()).split())


def word_error_rate(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """``wer``: word error rate over all clips, percent (jiwer); ``clamped_wer``: no clip counts more than 100 %.

    An answer that loops can have a WER far over 100 %; the two differ then.
    """
    import jiwer

    pairs = [(normalise(r), normalise(p)) for r, p in zip(references, predictions, strict=True)]
    wer = jiwer.wer([r for r, _ in pairs], [p for _, p in pairs])
    words = [len(r.split()) for r, _ in pairs]
    errors = [min(jiwer.wer(r, p), 1.0) * n for (r, p), n in zip(pairs, words, strict=True)]
    return {"wer": 100 * float(wer), "clamped_wer": 100 * sum(errors) / max(sum(words), 1)}


def bleu(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """``bleu`` and ``chrf`` over the corpus, 0 to 100 (sacrebleu's defaults)."""
    import sacrebleu

    guesses, truths = list(predictions), [list(references)]
    return {
        "bleu": float(sacrebleu.corpus_bleu(guesses, truths).score),
        "chrf": float(sacrebleu.corpus_chrf(guesses, truths).score),
    }


def accuracy(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """``accuracy``: share of answers that equal the reference after normalising, percent."""
    right = [normalise(p) == normalise(r) for p, r in zip(predictions, references, strict=True)]
    return {"accuracy": 100 * sum(right) / max(len(right), 1)}


def tally_words(predictions: Sequence[str], references: Sequence[str]) -> Tally:
    """`word_error_rate`'s ``wer``: errors and words of each clip."""
    import jiwer
    import numpy as np

    from fastadasp.tasks.task import Tally

    pairs = [(normalise(r), normalise(p)) for r, p in zip(references, predictions, strict=True)]
    words = [len(r.split()) for r, _ in pairs]
    errors = [jiwer.wer(r, p) * n for (r, p), n in zip(pairs, words, strict=True)]
    return Tally(np.array([errors, words], dtype=np.float64).T, lambda sums: float(100 * sums[0] / max(sums[1], 1)))


def tally_ngrams(predictions: Sequence[str], references: Sequence[str]) -> Tally:
    """`bleu`'s ``bleu``: matches and totals of each n-gram order, and the lengths."""
    import numpy as np
    import sacrebleu
    from sacrebleu.metrics.bleu import BLEU

    from fastadasp.tasks.task import Tally

    scores = [sacrebleu.sentence_bleu(p, [r]) for p, r in zip(predictions, references, strict=True)]
    counts = [[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores]

    def total(sums: NDArray[np.float64]) -> float:
        whole = [int(n) for n in sums]
        return float(BLEU.compute_bleu(whole[:4], whole[4:8], whole[8], whole[9], smooth_method="exp").score)

    return Tally(np.array(counts, dtype=np.float64), total)


def tally_right(predictions: Sequence[str], references: Sequence[str]) -> Tally:
    """`accuracy`: right answers and clips."""
    import numpy as np

    from fastadasp.tasks.task import Tally

    right = [normalise(p) == normalise(r) for p, r in zip(predictions, references, strict=True)]
    return Tally(np.array([[float(good), 1.0] for good in right]), lambda sums: float(100 * sums[0] / max(sums[1], 1)))


TALLIES: dict[str, Callable[[Sequence[str], Sequence[str]], Tally]] = {
    "wer": tally_words,
    "bleu": tally_ngrams,
    "accuracy": tally_right,
}
"""By headline metric."""
