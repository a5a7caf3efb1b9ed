"""What tests of methods share."""

from __future__ import annotations

import torch
from test_methods import make_view


def clip(*angles, size=1.0):
    """Hidden states on a circle, and keys that are the same twice: cosines are those of the angles, in degrees."""
    x = torch.tensor(angles).deg2rad()
    states = size * torch.stack([x.cos(), x.sin()], 1)
    return states, torch.nn.functional.pad(states, (0, 2)).unsqueeze(1).expand(-1, 2, -1).contiguous()


def plan_pairs(merger, clips, select, remove):
    """`plan` for mergers that read pairs."""
    view = make_view(clips, remove)
    scores = torch.full((len(clips), view.valid.shape[1] - 1), float("-inf"))
    for row, values in enumerate(select):
        scores[row, : len(values)] = values
    made = merger.plan(view, scores, None, view.remove)
    return [made.cluster[row, :n].tolist() for row, n in enumerate(view.tokens)]
