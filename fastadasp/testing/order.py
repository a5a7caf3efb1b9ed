"""Whether a component that declares no need of order gives each token the same in whatever order the tokens stand.

The tokens of each clip are shuffled with everything that belongs to them: hidden states, queries, keys, the attention
that they receive. That attention is shuffled and not computed anew, since causal attention differs by right when tokens
change places. What a component then says of a token must not have changed, or else it compares neighbours or counts
places, and `needs` has to hold "order".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastadasp.contracts.components import Merger, ScoreKind, Scorer
from fastadasp.engine.adjacent import cosine_to_next_key
from fastadasp.engine.encoder import EncoderSeen
from fastadasp.engine.received import Which
from fastadasp.engine.view import LayerView
from fastadasp.testing.failure import Subject, difference
from fastadasp.testing.views import Prompt, moved, view_of, words

CLIPS = (Prompt((4, 6), (120,), 21), Prompt((2, 3, 5), (64, 37), 22))
"""Long enough for windows and segments of time, which show nothing within one of them."""
CLOSE = 1e-4
"""Largest difference of a token's score, relative to the largest score: sums run in another order."""
ALIKE = 3
"""Tokens in a run of like ones, in the content where neighbours are alike."""
LIKE = "content where neighbours are alike"
DECLARE = "the same for each token, or 'order' among its needs: it compares neighbours or counts places"


@dataclass
class Shuffled(LayerView):
    """A layer whose tokens stand in another order.

    Attributes:
        plain: the layer before.
        order: int64 [clips, N], which token of the plain layer stands where; padding stays where it is.
        noise_moves: whether noise goes with the tokens. It is drawn for places, so scores of pairs leave it there.
    """

    plain: LayerView | None = None
    order: Tensor = field(default_factory=lambda: torch.zeros(0))
    noise_moves: bool = True

    def received_attention(self, queries: float = 1.0, which: Which = "strided") -> Tensor:
        """What each token received where it stood."""
        return self._there().received_attention(queries, which).gather(1, self.order)

    def last_query_attention(self) -> Tensor:
        """What each token received where it stood."""
        return self._there().last_query_attention().gather(1, self.order)

    def of_encoder(self, asker: str = "the strategy") -> EncoderSeen:
        """What the encoder gave to each token where it stood."""
        seen, order = self._there().of_encoder(asker), self.order
        received = seen.received.gather(3, order[:, None, None].expand_as(seen.received))
        own = seen.own.gather(2, order[:, None].expand_as(seen.own))
        return EncoderSeen(received, own, seen.keys.gather(1, order.unsqueeze(-1).expand_as(seen.keys)), seen.products)

    def noise(self, stream: int = 0) -> Tensor:
        """The noise of each token, or of each place."""
        drawn = self._there().noise(stream)
        return drawn.gather(1, self.order) if self.noise_moves else drawn

    def _there(self) -> LayerView:
        assert self.plain is not None  # `shuffled` makes every view of this kind
        return self.plain


def shuffled(view: LayerView, seed: int, *, noise_moves: bool = True) -> Shuffled:
    """The view with the tokens of each clip in another order."""
    made = torch.Generator().manual_seed(seed)
    ranks = torch.rand(view.valid.shape, generator=made).masked_fill(~view.valid, 2.0)
    order = ranks.argsort(dim=1)
    other = _from_columns(view, order)
    given = {name: getattr(other, name) for name in LayerView.__dataclass_fields__ if _initial(name)}
    return Shuffled(**given, plain=view, order=order, noise_moves=noise_moves)


def check_scorer_order(subject: Subject, kind: ScoreKind, scorer: Scorer) -> None:
    """Raises ConformanceError if the scores follow the order of the tokens and nothing says so."""
    if "order" in scorer.needed():
        return
    score = getattr(scorer, kind)
    for view, doing in _layers(f"{kind}(layer)", scorer.needed()):
        before = score(view)
        for seed in (1, 2):
            other = shuffled(view, seed, noise_moves=kind == "importance")
            at = subject.when(doing)
            after = at.call("scores", score, other)
            if kind == "importance":
                ours, theirs = before.gather(1, other.order)[view.valid], after[view.valid]
            else:  # a pair is a place: only scores that do not look at its two tokens stay as they are
                ours, theirs = before[view.valid[:, 1:]], after[view.valid[:, 1:]]
            scale = max(float(ours.abs().max()), 1e-3)
            same = torch.allclose(ours.float(), theirs.float(), rtol=0, atol=CLOSE * scale)
            at.expect(same, f"other scores: {difference(ours, theirs)}", DECLARE)


def check_merger_order(subject: Subject, merger: Merger) -> None:
    """Raises ConformanceError if who stays or joins follows the order of the tokens and nothing says so."""
    if "order" in merger.needed():
        return
    for view, doing in _layers("plan(layer, select, weight, remove)", merger.needed(), merger):
        weight = view.noise(2000).float() if merger.uses_weight else None
        before = _groups(merger, view, _select(merger, view), weight)
        for seed in (1, 2):
            other = shuffled(view, seed)
            moved_weight = None if weight is None else weight.gather(1, other.order)
            at = subject.when(doing)
            after = at.call("a plan", _groups, merger, other, _select(merger, other), moved_weight)
            for clip, tokens in enumerate(view.tokens):
                places = other.order[clip, :tokens]
                ours, theirs = before[clip, :tokens], torch.full((tokens,), -1)
                theirs[places] = torch.where(after[clip, :tokens] < 0, -1, places[after[clip, :tokens].clamp_min(0)])
                # clusters are told apart by one of their tokens: the first one of the plain order
                theirs = _by_first(theirs)
                moved_tokens = (ours != theirs).nonzero().flatten().tolist()
                came = f"{len(moved_tokens)} of {tokens} tokens of clip {clip} stay, go or join otherwise"
                at.expect(not moved_tokens, came, DECLARE)


def _layers(doing: str, needs: frozenset[Any], merger: Merger | None = None) -> Iterator[tuple[LayerView, str]]:
    """Layers of random content, and of content where neighbours are alike, with what is done to them in words."""
    counts = [n for prompt in CLIPS for n in prompt.clips]
    shares = (2, 4) if merger is not None else (2,)
    for share in shares:
        remove = [n // share if merger is None else merger.capacity(n) // share for n in counts]
        plain = view_of(CLIPS, attention=True, remove=remove)
        for view, content in ((plain, "random content"), (_alike(plain), LIKE)):
            told = f"{doing}; {words(view)}, {content}; the tokens of each clip in another order"
            yield view, f"{told}; its needs are {sorted(needs)}"


def _alike(view: LayerView) -> LayerView:
    """The view with runs of tokens that are nearly the first of them."""
    steps = torch.arange(view.valid.shape[1]).expand_as(view.valid)
    first = _from_columns(view, (steps // ALIKE * ALIKE).where(view.valid, steps))

    def blend(own: Tensor | None, run: Tensor | None) -> Tensor | None:
        return None if own is None or run is None else run + 0.2 * own

    first.states = first.states + 0.2 * view.states
    first.query, first.key = blend(view.query, first.query), blend(view.key, first.key)
    return first


def _from_columns(view: LayerView, places: Tensor) -> LayerView:
    """The view whose clips' tokens are taken from other places of theirs, int64 [clips, N]."""
    columns, valid = view.spans.columns()
    batch, length = view.states.shape[:2]
    source = torch.arange(length).repeat(batch, 1)
    rows = view.spans.sample.unsqueeze(1).expand_as(columns)
    source[rows[valid], columns[valid]] = columns.gather(1, places)[valid]
    other = moved(view, lambda x: x)
    past = 0 if view.key is None else view.key.shape[2] - length

    def take(x: Tensor | None, offset: int) -> Tensor | None:
        if x is None:
            return None
        index = torch.cat([torch.arange(offset).repeat(batch, 1), source + offset], 1)
        return x.gather(2, index[:, None, :, None].expand_as(x))

    other.states = view.states.gather(1, source.unsqueeze(-1).expand_as(view.states))
    other.query, other.key = take(view.query, 0), take(view.key, past)
    return other


def _initial(name: str) -> bool:
    """Whether a field of a view is given when it is made; what scorers kept stays with the view that they saw."""
    return LayerView.__dataclass_fields__[name].init and name != "kept"


def _select(merger: Merger, view: LayerView) -> Tensor:
    """Scores that belong to the tokens, or to the pairs that are neighbours in this view."""
    if merger.reads == "importance":
        return view.noise(1000).masked_fill(~view.valid, float("inf"))
    assert view.key is not None  # these views have queries and keys
    alike = cosine_to_next_key(view.key[:, :, -view.states.shape[1] :], view.spans)
    return alike.masked_fill(~view.valid[:, 1:], float("-inf"))


def _groups(merger: Merger, view: LayerView, select: Tensor, weight: Tensor | None) -> Tensor:
    """Of each token the place of its cluster's first token, -1 where it goes: int64 [clips, N]."""
    remove = view.remove
    assert remove is not None  # these views have it
    cluster = merger.plan(view, select, weight, remove).cluster
    return torch.stack([_by_first(row) for row in cluster])


def _by_first(groups: Tensor) -> Tensor:
    """Groups named by the place of their first member; -1 stays."""
    first: dict[int, int] = {}
    return torch.tensor([g if g < 0 else first.setdefault(g, i) for i, g in enumerate(groups.tolist())])
