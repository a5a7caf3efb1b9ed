"""The published methods of the encoder's side and of the prompt's words: one small case each, worked by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from drawn_clips import clip
from test_methods import make_view, plan
from test_plugins import component

from fastadasp.engine.encoder import EncoderSeen


def test_attention_of_frames_becomes_attention_of_tokens() -> None:
    """Four frames, two tokens. Zero queries: each frame gives 1/4 to each, so a token receives 4 x 2/4 / 2 = 1."""
    flat = EncoderSeen.of(torch.zeros(1, 2, 4, 2), torch.randn(1, 2, 4, 2), 1.0, None, 2)
    assert torch.allclose(flat.attention("mean", "all"), torch.ones(1, 2))
    assert torch.allclose(flat.own_attention("mean"), torch.full((1, 2), 0.5))
    # One head, and all frames look at frame 2 alone: token 1 receives 4 x 1 / 2, and gives all it has to itself.
    key = torch.zeros(1, 1, 4, 1)
    key[0, 0, 2] = 100.0
    sharp = EncoderSeen.of(torch.ones(1, 1, 4, 1), key, 1.0, None, 2)
    assert torch.allclose(sharp.attention("max", "all"), torch.tensor([[0.0, 2.0]]), atol=1e-6)
    assert torch.allclose(sharp.own_attention("mean"), torch.tensor([[0.0, 1.0]]), atol=1e-6)
    assert sharp.keys[0].flatten().tolist() == [0.0, 50.0]


def test_vispruner() -> None:
    """Four of eight stay. The two most important are 0 and 5. The rest is 1, 2, 3, 4, 6, 7, of which two stay: its even
    ones are 1, 3 and 6. Token 3 is nearest to an odd one (2, by 1 degree) and 1 next (2, by 4), so they go first. That
    leaves 2, 4, 6, 7, whose even ones, 2 and 6, go in the second round."""
    x = clip(0, 40, 44, 45, 90, 0, 200, 210)
    importance = torch.tensor([9.0, 1, 1, 1, 1, 8, 1, 1])
    merger = component("merger", "vispruner", step=2)
    assert plan(merger, [x], [importance], [4]) == [[0, -1, -1, -1, 1, 2, -1, 3]]


def test_cdpruner() -> None:
    """Tokens at 0, 3, 90 and 91 degrees, all equally important: the first, then the one at a right angle to it."""
    x = clip(0, 3, 90, 91)
    merger = component("merger", "dpp")
    assert plan(merger, [x], [torch.ones(4)], [2]) == [[0, -1, 1, -1]]
    # Importance counts as well: the last is three times as important, so it comes first, and 2 has nothing to add.
    assert plan(merger, [x], [torch.tensor([1.0, 1, 1, 3])], [2]) == [[0, -1, -1, 1]]


def test_visionzip_as_published_for_audio() -> None:
    """Three of six stay: one target (5 % of six is below one), and the two that are most important, 1 and 4. The target
    is the first of the rest, token 0; the others, 2, 3 and 5, are added to it as their mean."""
    x = clip(0, 10, 20, 30, 40, 50)
    view = make_view([x], [3])
    view.encoder = EncoderSeen(torch.zeros(1, 2, 3, 6), torch.zeros(1, 2, 6), x[0].unsqueeze(0), torch.zeros(1))
    importance = torch.tensor([[1.0, 5, 1, 1, 4, 1]])
    made = component("merger", "contextual").plan(view, importance, None, view.remove)
    assert made.cluster[0].tolist() == [0, 1, 0, 0, 2, 0]
    assert made.weight is not None
    assert made.weight[0].tolist() == pytest.approx([1, 1, 1 / 3, 1 / 3, 1, 1 / 3])
    assert made.shares


def test_sa_map() -> None:
    """Tokens at 0, 1 and 2 degrees are a group, as are 90 and 91; 45 is by itself. Two groups stay: the most relevant,
    and of the others the one at a right angle to it."""
    x = clip(0, 1, 2, 45, 90, 91)
    merger = component("merger", "sa-map", threshold=0.99)
    importance = torch.tensor([2.0, 2, 2, 1, 1, 1])
    assert plan(merger, [x], [importance], [3]) == [[0, 0, 0, 1, 2, 2]]
    assert plan(merger, [x], [importance], [4]) == [[0, 0, 0, -1, 1, 1]]


def test_heads_that_look_everywhere_alike_have_no_say() -> None:
    """Head 0 gives 0.4 to each of two tokens (no choice: weight 0), head 1 gives 0.1, all of it to the second."""
    received = torch.tensor([[[0.4, 0.4], [0.0, 0.1]]])
    layer = SimpleNamespace(valid=torch.ones(1, 2, dtype=torch.bool), text_attention=lambda asker: received)
    scores = component("scorer", "routed-heads").importance(layer)
    assert torch.allclose(scores, torch.tensor([[0.0, 1.0]]), atol=1e-6)


def test_words_that_are_about_the_sound_are_asked() -> None:
    """Two words: one points where the sound points and gets e^2 / (e^2 + 1) of each token's softmax, so it alone is
    above the mean of one half."""
    asked = []

    def text_attention(raters: torch.Tensor, asker: str) -> torch.Tensor:
        asked.append(raters)
        return torch.ones(1, 2, 3)

    layer = SimpleNamespace(
        valid=torch.ones(1, 3, dtype=torch.bool),
        hidden=torch.tensor([[[2.0, 0.0]] * 3]),
        text=lambda asker: (torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.ones(1, 2, dtype=torch.bool)),
        text_attention=text_attention,
    )
    scorer = component("scorer", "text-raters")
    relevance, _ = scorer._relevance(layer, "")
    assert relevance[0].tolist() == pytest.approx([0.880797, 0.119203], abs=1e-6)
    assert scorer.importance(layer).tolist() == [[1.0, 1.0, 1.0]]
    assert asked[0].tolist() == [[1.0, 0.0]]
