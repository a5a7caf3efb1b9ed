"""Nearest-neighbour estimators of entropy, mutual information and transfer entropy.

A small module of its own: it needs nothing else of fastadasp, takes arrays or tensors and gives floats, in nats unless
bits are asked for. docs/estimators.md says what each gives and when it is biased.
"""

from __future__ import annotations

from fastadasp.estimators.entropy import gaussian_entropy, knn_entropy
from fastadasp.estimators.information import knn_conditional_mutual_information, knn_mutual_information
from fastadasp.estimators.projection import Projection, project
from fastadasp.estimators.transfer import transfer_entropy

__all__ = [
    "Projection",
    "gaussian_entropy",
    "knn_conditional_mutual_information",
    "knn_entropy",
    "knn_mutual_information",
    "project",
    "transfer_entropy",
]
