"""Metrics, by the libraries that the field uses. All in percent or points.

A score takes predictions and references and gives metrics by name; a tally gives the headline metric as counts that add
up over clips, where it has such a form. Words and labels are compared after a normaliser
(`fastadasp.tasks.normalisers`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastadasp.tasks.normalisers import Normaliser, basic, none

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastadasp.contracts.task import Tally

Texts = Sequence[str]
YES, NO = ("yes", "true", "same", "target", "1"), ("no", "false", "different", "nontarget", "0")
"""What counts as a claim that two recordings are of one speaker, and as the opposite."""


def _pairs(predictions: Texts, references: Texts, normaliser: Normaliser) -> list[tuple[str, str]]:
    """(reference, prediction) of each clip, normalised."""
    return [(normaliser(r), normaliser(p)) for r, p in zip(references, predictions, strict=True)]


def word_error_rate(predictions: Texts, references: Texts, normaliser: Normaliser = basic) -> dict[str, float]:
    """``wer`` and ``cer``: word and character error rate over all clips, percent (jiwer).

    Words that are invented where the reference is empty count as errors, too. ``clamped_wer`` is the word error rate
    where no clip counts more than 100 %, and an empty reference no more than one word: an answer that loops can have
    far more.
    """
    tallies = {"wer": tally_words, "clamped_wer": tally_clamped, "cer": tally_characters}
    return {name: _value(count(predictions, references, normaliser)) for name, count in tallies.items()}


def bleu(
    predictions: Texts, references: Texts, normaliser: Normaliser = none, tokenizer: str | None = None
) -> dict[str, float]:
    """``bleu`` and ``chrf`` over the corpus, 0 to 100 (sacrebleu; Post, WMT 2018).

    Args:
        tokenizer: one of `fastadasp.tasks.tokenizers.TOKENIZERS`; None for the one that fits the references' script.

    Raises:
        DataError: no such tokenizer, or its package is not installed.
    """
    import sacrebleu

    pairs = _pairs(predictions, references, normaliser)
    guesses, truths = [p for _, p in pairs], [[r for r, _ in pairs]]
    return {
        "bleu": _value(tally_ngrams(predictions, references, normaliser, tokenizer)),
        "chrf": float(sacrebleu.corpus_chrf(guesses, truths).score),
    }


def accuracy(predictions: Texts, references: Texts, normaliser: Normaliser = basic) -> dict[str, float]:
    """``accuracy``: answers that equal the reference; ``f1``: macro F1 over the references' labels; in percent."""
    from sklearn.metrics import accuracy_score, f1_score

    pairs = _pairs(predictions, references, normaliser)
    truths, guesses = [r for r, _ in pairs], [p for _, p in pairs]
    if not pairs:
        return {"accuracy": 0.0, "f1": 0.0}
    labels = sorted(set(truths))
    return {
        "accuracy": 100 * float(accuracy_score(truths, guesses)),
        "f1": 100 * float(f1_score(truths, guesses, labels=labels, average="macro", zero_division=0.0)),
    }


def equal_error_rate(predictions: Texts, references: Texts, normaliser: Normaliser = basic) -> dict[str, float]:
    """``eer``: where false acceptances are as frequent as false rejections, percent (scikit-learn's ROC curve).

    References are yes or no. A prediction is a number, the larger the more likely yes, or yes or no themselves;
    anything else stands between. With answers of one kind alone the rate is 50.
    """
    import numpy as np
    from sklearn.metrics import roc_curve

    truths = np.array([_claim(normaliser(reference)) > 0.5 for reference in references])
    if truths.all() or not truths.any():
        return {"eer": 50.0}
    false, true, _ = roc_curve(truths, [_claim(prediction) for prediction in predictions], drop_intermediate=False)
    return {"eer": 100 * float(np.interp(0.0, false - (1 - true), false))}


def _claim(answer: str) -> float:
    """How much an answer says yes: its number if it is one, 1 for yes, 0 for no, 0.5 for neither."""
    text = answer.strip()
    try:
        return float(text)
    except ValueError:
        words = re.findall(r"\w+", text.lower())
        said = [word for word in words if word in YES or word in NO]
        return 0.5 if not said else float(said[0] in YES)


def _value(tally: Tally) -> float:
    """The metric over all clips."""
    return tally.total(tally.counts.sum(axis=0))


def _errors(pairs: Sequence[tuple[str, str]], unit: Callable[..., Any]) -> list[int]:
    """Substitutions, deletions and insertions of each pair, by jiwer's `process_words` or `process_characters`."""
    found = (unit(r, p) for r, p in pairs)
    return [one.substitutions + one.deletions + one.insertions for one in found]


def tally_words(predictions: Texts, references: Texts, normaliser: Normaliser = basic) -> Tally:
    """`word_error_rate`'s ``wer``: errors and words of each clip."""
    import jiwer

    pairs = _pairs(predictions, references, normaliser)
    return _share(_errors(pairs, jiwer.process_words), [len(r.split()) for r, _ in pairs])


def tally_clamped(predictions: Texts, references: Texts, normaliser: Normaliser = basic) -> Tally:
    """`word_error_rate`'s ``clamped_wer``."""
    import jiwer

    pairs = _pairs(predictions, references, normaliser)
    words = [len(r.split()) for r, _ in pairs]
    errors = _errors(pairs, jiwer.process_words)
    return _share([min(wrong, max(n, 1)) for wrong, n in zip(errors, words, strict=True)], words)


def tally_characters(predictions: Texts, references: Texts, normaliser: Normaliser = basic) -> Tally:
    """`word_error_rate`'s ``cer``: errors and characters of each clip."""
    import jiwer

    pairs = _pairs(predictions, references, normaliser)
    return _share(_errors(pairs, jiwer.process_characters), [len(r) for r, _ in pairs])


def tally_ngrams(
    predictions: Texts, references: Texts, normaliser: Normaliser = none, tokenizer: str | None = None
) -> Tally:
    """`bleu`'s ``bleu``: matches and totals of each n-gram order, and the lengths."""
    import numpy as np
    from sacrebleu.metrics.bleu import BLEU

    from fastadasp.contracts.task import Tally
    from fastadasp.tasks.tokenizers import sacrebleu_for

    pairs = _pairs(predictions, references, normaliser)
    metric = sacrebleu_for(tokenizer, [r for r, _ in pairs])
    scores = [metric.sentence_score(p, [r]) for r, p in pairs]
    counts = [[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores]

    def total(sums: NDArray[np.float64]) -> float:
        whole = [int(n) for n in sums]
        return float(BLEU.compute_bleu(whole[:4], whole[4:8], whole[8], whole[9], smooth_method="exp").score)

    return Tally(np.array(counts, dtype=np.float64).reshape(-1, 10), total)


def tally_right(predictions: Texts, references: Texts, normaliser: Normaliser = basic) -> Tally:
    """`accuracy`: right answers and clips."""
    right = [r == p for r, p in _pairs(predictions, references, normaliser)]
    return _share([float(good) for good in right], [1.0] * len(right))


def _share(parts: Sequence[float], wholes: Sequence[float]) -> Tally:
    """The percentage that sums of `parts` are of sums of `wholes`."""
    import numpy as np

    from fastadasp.contracts.task import Tally

    counts = np.array([parts, wholes], dtype=np.float64).reshape(2, -1).T
    return Tally(counts, lambda sums: float(100 * sums[0] / max(sums[1], 1)))


@dataclass(frozen=True)
class Metric:
    """A headline metric.

    Attributes:
        score: gives it, and its kin, from predictions, references and a normaliser; with ``bleu`` and ``chrf`` also
            from a keyword `tokenizer`.
        tally: the same as counts; None where it does not add up over clips.
        normaliser: what texts go through unless a task says otherwise.
        reference: what is right: ``words``, a ``translation`` or a ``label``.
    """

    score: Callable[..., dict[str, float]]
    tally: Callable[..., Tally] | None
    higher_is_better: bool
    normaliser: str
    reference: str


METRICS = {
    "wer": Metric(word_error_rate, tally_words, False, "basic", "words"),
    "clamped_wer": Metric(word_error_rate, tally_clamped, False, "basic", "words"),
    "cer": Metric(word_error_rate, tally_characters, False, "basic", "words"),
    "bleu": Metric(bleu, tally_ngrams, True, "none", "translation"),
    "chrf": Metric(bleu, None, True, "none", "translation"),
    "accuracy": Metric(accuracy, tally_right, True, "basic", "label"),
    "f1": Metric(accuracy, None, True, "basic", "label"),
    "eer": Metric(equal_error_rate, None, False, "basic", "label"),
}
"""By the name of the headline metric."""
