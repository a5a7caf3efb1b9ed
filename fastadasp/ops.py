"""Vectorised building blocks for scorers and mergers. One row a clip; nothing here waits for the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_RIDGE = 1e-6
"""Added to a gain of `greedy_map`, times its squared length: orders what the features no longer tell apart."""
_BLOCK = 64
"""Tokens that `nearest` compares all others with at once."""


def cosine_to_next(x: Tensor) -> Tensor:
    """Cosine similarity of each token to the next one: [clips, N, ...] -> float32 [clips, N - 1].

    Trailing dimensions (heads) are concatenated.
    """
    import torch

    flat = x.flatten(2).float()
    norm = flat.norm(dim=-1).clamp_min(1e-12)
    cosine: Tensor = torch.linalg.vecdot(flat[:, :-1], flat[:, 1:]) / (norm[:, :-1] * norm[:, 1:])
    return cosine


def unit_vectors(x: Tensor) -> Tensor:
    """Each token's vector at length 1 (zeros stay zeros): [clips, N, ...] -> float32 [clips, N, D].

    Trailing dimensions (heads) are concatenated.
    """
    flat = x.flatten(2).float()
    unit: Tensor = flat / flat.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return unit


def nearest(x: Tensor, among: Tensor, window: int | None = None) -> tuple[Tensor, Tensor]:
    """The token among some that is most like each token by cosine, itself left out.

    Streamed over blocks of `among`: time grows with N squared, memory does not.

    Args:
        x: [clips, N, ...]; trailing dimensions are concatenated.
        among: bool [clips, N], which tokens may be answered.
        window: if given, the clip is cut into windows of so many tokens, and only those of a token's own are answered.

    Returns:
        Its place, int64 [clips, N] (of equals the first), and the cosine, float32 [clips, N]; 0 and -inf where there
        is none.
    """
    import torch

    unit = unit_vectors(x)
    places = torch.arange(unit.shape[1], device=unit.device)
    best = torch.full(among.shape, float("-inf"), device=unit.device)
    place = torch.zeros_like(best, dtype=torch.int64)
    for begin in range(0, unit.shape[1], _BLOCK):
        block = slice(begin, begin + _BLOCK)
        cosine = torch.matmul(unit, unit[:, block].transpose(1, 2))
        hidden = ~among[:, None, block] | (places.unsqueeze(1) == places[block])
        if window is not None:
            hidden = hidden | (places.unsqueeze(1) // window != places[block] // window)
        value, index = cosine.masked_fill(hidden, float("-inf")).max(-1)
        better = value > best
        best, place = value.where(better, best), (index + begin).where(better, place)
    return place, best


def group_means(x: Tensor, weight: Tensor, group: Tensor) -> Tensor:
    """Weighted means of groups of tokens, plain ones where all weights of a group are 0.

    Args:
        x: [clips, N, D].
        weight: [clips, N], at least 0.
        group: int64 [clips, N], the group of each token, in 0...N; padding may have the last.

    Returns:
        [clips, N + 1, D]; zeros where a group has no token.
    """
    shape = (len(group), group.shape[1] + 1)
    total = weight.new_zeros(shape).scatter_add(1, group, weight)
    weight = weight.masked_fill(total.gather(1, group) == 0, 1.0)
    total = weight.new_zeros(shape).scatter_add(1, group, weight)
    index = group.unsqueeze(-1).expand_as(x)
    sums = x.new_zeros(*shape, x.shape[-1]).scatter_add(1, index, x * weight.unsqueeze(-1))
    return sums / total.clamp_min(1e-30).unsqueeze(-1)


def greedy_map(features: Tensor, exists: Tensor, count: Tensor, rounds: int, sizes: Tensor | None = None) -> Tensor:
    """Greedy MAP of a determinantal point process whose kernel are the features' inner products.

    Each pick is the entry with the largest gain, its squared length, after which its direction is taken out of all
    others. Picks follow one another by definition; memory grows with M, never with its square.

    Args:
        features: [clips, M, D].
        exists: bool [clips, M], False for padding.
        count: int64 [clips], how many are picked.
        rounds: at least the largest of `count`, on the host.
        sizes: [clips, M], the squared lengths where they are known exactly, so that equals tie: the first is picked.

    Returns:
        bool [clips, M], True for what is picked.
    """
    import torch

    chosen = torch.zeros_like(exists)
    length = features.square().sum(-1) if sizes is None else sizes
    ridge = _RIDGE * length
    for turn in range(rounds):
        gain = (features.square().sum(-1) if turn else length) + ridge
        pick = gain.masked_fill(chosen | ~exists, -1.0).argmax(1, keepdim=True)
        chosen.scatter_(1, pick, chosen.gather(1, pick) | (turn < count.unsqueeze(1)))
        newest = features.gather(1, pick.unsqueeze(-1).expand(-1, 1, features.shape[-1]))
        along = torch.matmul(features, newest.transpose(1, 2)) / gain.gather(1, pick).clamp_min(1e-30).unsqueeze(-1)
        features = features - along * newest
    return chosen


def rank_descending(scores: Tensor, *ties: Tensor) -> Tensor:
    """Rank of each entry in its row, 0 for the largest: [clips, M] -> int64.

    Of equals the one with the larger entry in `ties` (each [clips, M], the first counts most) ranks higher, then the
    first of the row.
    """
    import torch

    keys = [scores, *ties]
    order = keys[-1].argsort(dim=1, descending=True, stable=True)
    for key in reversed(keys[:-1]):
        order = order.gather(1, key.gather(1, order).argsort(dim=1, descending=True, stable=True))
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def largest(scores: Tensor, count: Tensor) -> Tensor:
    """True for the `count[c]` largest entries of row c: [clips, M], int64 [clips] -> bool [clips, M]."""
    import torch

    order = scores.argsort(dim=1, descending=True, stable=True)
    among = torch.arange(scores.shape[1], device=scores.device) < count.unsqueeze(1)
    return torch.empty_like(order, dtype=torch.bool).scatter_(1, order, among)


def smallest(scores: Tensor, count: Tensor) -> Tensor:
    """True for the `count[c]` smallest entries of row c: [clips, M], int64 [clips] -> bool [clips, M]."""
    return largest(-scores, count)


def rank_in_groups(scores: Tensor, group: Tensor, groups: int) -> Tensor:
    """Rank of each entry among those of its group, 0 for the largest: [clips, M], int64 [clips, M] -> int64 [clips, M].

    Groups are numbered 0...groups - 1, in any order.
    """
    import torch

    sizes = torch.zeros(len(group), groups, dtype=torch.int64, device=group.device)
    sizes.scatter_add_(1, group, torch.ones_like(group))
    before = sizes.cumsum(1) - sizes
    return rank_descending(-group, scores) - before.gather(1, group)


def evenly_spaced(place: Tensor, total: Tensor, count: Tensor) -> Tensor:
    """Which places are among `count` that divide `total` as evenly as can be, the first included.

    These are floor(t total / count) for t = 0...count - 1; each gap is one of two neighbouring lengths.

    Args:
        place: int64 [clips, M], counted from 0 in each row; others than 0...total - 1 may stand there.
        total: int64 [clips], places in each row.
        count: int64 [clips], count <= total.
    """
    import torch

    total, count = total.unsqueeze(1), count.unsqueeze(1)
    turn = -torch.div(
        -place * count, total.clamp_min(1), rounding_mode="floor"
    )  # the first t with t total / count >= place
    return (turn * total < (place + 1) * count) & (turn < count) & (place >= 0)


def clusters_from_leaders(leader: Tensor, valid: Tensor) -> Tensor:
    """Cluster numbers where tokens with one leader share a cluster: int64 [clips, N] -> int64 [clips, N].

    Clusters need not be neighbours; they count in the order of their first tokens.

    Args:
        leader: the place of each token's leader, in 0...N - 1; below 0 the token is dropped.
        valid: bool [clips, N]; padding gets -1, like dropped tokens.
    """
    import torch

    kept, width = valid & (leader >= 0), leader.shape[1]
    steps = torch.arange(width, device=leader.device).expand_as(leader)
    slot = leader.where(kept, width)
    first = torch.full((len(leader), width + 1), width, device=leader.device).scatter_reduce_(1, slot, steps, "amin")
    head = first.gather(1, slot).where(kept, 0)
    number = (kept & (head == steps)).cumsum(1) - 1
    return number.gather(1, head).masked_fill(~kept, -1)


def clusters_from_joins(joined: Tensor, valid: Tensor) -> Tensor:
    """Cluster numbers where joined neighbours share one: bool [clips, N-1], bool [clips, N] -> int64 [clips, N].

    `joined[c, i]` puts tokens i and i+1 into one cluster. Padding gets -1.
    """
    import torch

    starts = torch.nn.functional.pad(~joined, (1, 0), value=True) & valid
    return starts.cumsum(1).where(valid, 0) - 1


def clusters_from_kept(kept: Tensor) -> Tensor:
    """Cluster numbers where each kept token stands alone: bool [clips, N] -> int64 [clips, N], -1 for the others."""
    return (kept.cumsum(1) - 1).masked_fill(~kept, -1)


def alternate_in_runs(marked: Tensor) -> Tensor:
    """Every other mark of each run of marks, from the run's first on: bool [clips, M] -> bool [clips, M].

    This is what a walk from left to right takes that jumps past the next mark after each one it takes.
    """
    import torch

    steps = torch.arange(marked.shape[1], device=marked.device)
    gap = steps.expand_as(marked).masked_fill(marked, -1).cummax(1).values
    return marked & ((steps - gap) % 2 == 1)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` [..., head_dim] turned as rotary embedding does, channels i and i + r / 2 together.

    Args:
        x: queries or keys.
        cos: cosines of the angles, [..., r] with r <= head_dim; channels from r on stay as they are.
        sin: their sines, of the same shape.
    """
    import torch

    size = cos.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat([-second, first], -1) * sin
    return torch.cat([turned, rest], -1) if rest.shape[-1] else turned
