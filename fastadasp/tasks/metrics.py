"""Metrics, by the libraries that the field uses. All in percent or points."""

from __future__ import annotations

import re
from collections.abc import Sequence


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
