"""Building blocks and the reduction itself, each against a loop that anyone can check."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastadasp import TokenPlan, ops
from fastadasp.contracts.spans import number_runs
from fastadasp.engine.spans import find_spans
from fastadasp.engine.stream import Stream, apply_plan
from fastadasp.errors import ModelError

FEW = settings(max_examples=60, deadline=None)
numbers = st.integers(0, 2**31)


def _generator(seed):
    return torch.Generator().manual_seed(seed)


@FEW
@given(numbers, st.integers(1, 9), st.integers(1, 3))
def test_cosine_to_next(seed, tokens, heads):
    x = torch.randn(2, tokens, heads, 4, generator=_generator(seed))
    ours = ops.cosine_to_next(x)
    assert ours.shape == (2, tokens - 1)
    for clip in range(2):
        for i in range(tokens - 1):
            a, b = x[clip, i].flatten(), x[clip, i + 1].flatten()
            assert float(ours[clip, i]) == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-5)


def test_cosine_of_zeros_is_zero():
    assert ops.cosine_to_next(torch.zeros(1, 3, 2, 2)).tolist() == [[0.0, 0.0]]


@FEW
@given(st.lists(st.integers(-3, 3), max_size=12), st.data())
def test_ranks_largest_and_smallest(row, data):
    scores = torch.tensor([row], dtype=torch.float32)
    order = sorted(range(len(row)), key=lambda i: -row[i])  # stable: of equals the first
    assert ops.rank_descending(scores)[0].tolist() == [order.index(i) for i in range(len(row))]
    count = data.draw(st.integers(0, len(row)))
    chosen = torch.tensor([count])
    assert ops.largest(scores, chosen)[0].tolist() == [i in order[:count] for i in range(len(row))]
    least = sorted(range(len(row)), key=lambda i: row[i])[:count]
    assert ops.smallest(scores, chosen)[0].tolist() == [i in least for i in range(len(row))]


@FEW
@given(st.lists(st.booleans(), min_size=1, max_size=14), st.integers(1, 4))
def test_clusters_from_joins(joined, padding):
    joined = joined[1:]
    tokens = len(joined) + 1
    valid = torch.tensor([[True] * tokens + [False] * padding])
    expected = [0]
    for join in joined:
        expected.append(expected[-1] + (not join))
    given_joins = torch.tensor([joined + [False] * padding], dtype=torch.bool)
    assert ops.clusters_from_joins(given_joins, valid)[0].tolist() == expected + [-1] * padding


@FEW
@given(st.lists(st.booleans(), min_size=1, max_size=14))
def test_clusters_from_kept(kept):
    expected, count = [], 0
    for keep in kept:
        expected.append(count if keep else -1)
        count += keep
    assert ops.clusters_from_kept(torch.tensor([kept]))[0].tolist() == expected


@FEW
@given(st.lists(st.booleans(), min_size=1, max_size=16))
def test_alternate_in_runs_is_a_walk(marks):
    taken, i = [False] * len(marks), 0
    while i < len(marks):
        if marks[i]:
            taken[i] = True
            i += 1  # jumps past the next
        i += 1
    assert ops.alternate_in_runs(torch.tensor([marks]))[0].tolist() == taken


@FEW
@given(st.lists(st.integers(-2, 2), min_size=1, max_size=12), st.data())
def test_ties_go_to_the_larger_in_the_next_key(row, data):
    keys = [row] + [data.draw(st.lists(st.integers(-2, 2), min_size=len(row), max_size=len(row))) for _ in range(2)]
    order = sorted(range(len(row)), key=lambda i: tuple(-key[i] for key in keys))
    ours = ops.rank_descending(*(torch.tensor([key]) for key in keys))
    assert ours[0].tolist() == [order.index(i) for i in range(len(row))]


@FEW
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 2)), min_size=1, max_size=14))
def test_rank_in_groups(entries):
    group, scores = (torch.tensor([part]) for part in zip(*entries, strict=True))
    ours = ops.rank_in_groups(scores.float(), group, 5)[0].tolist()
    for g in range(4):
        members = [i for i, (own, _) in enumerate(entries) if own == g]
        order = sorted(members, key=lambda i: -entries[i][1])
        assert [ours[i] for i in members] == [order.index(i) for i in members]


@FEW
@given(st.integers(0, 40), st.data())
def test_evenly_spaced(total, data):
    count = data.draw(st.integers(0, total))
    ours = ops.evenly_spaced(torch.arange(-1, total + 3).unsqueeze(0), torch.tensor([total]), torch.tensor([count]))
    expected = {t * total // count for t in range(count)}
    assert ours[0].tolist() == [place in expected for place in range(-1, total + 3)]


@FEW
@given(st.lists(st.integers(-1, 11), min_size=1, max_size=12), st.integers(0, 3))
def test_clusters_from_leaders(leader, padding):
    leader = [min(lead, len(leader) - 1) for lead in leader]
    valid = torch.tensor([[True] * len(leader) + [False] * padding])
    names = list(dict.fromkeys(lead for lead in leader if lead >= 0))
    expected = [names.index(lead) if lead >= 0 else -1 for lead in leader] + [-1] * padding
    ours = ops.clusters_from_leaders(torch.tensor([leader + [0] * padding]), valid)
    assert ours[0].tolist() == expected


@FEW
@given(numbers, st.integers(1, 9))
def test_nearest(seed, block):
    x, among = torch.randn(2, 9, 2, 3, generator=_generator(seed)), torch.rand(2, 9, generator=_generator(seed)) < 0.4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "_BLOCK", block)
        place, cosine = ops.nearest(x, among)
    unit = ops.unit_vectors(x)
    full = (unit @ unit.transpose(1, 2)).masked_fill(torch.eye(9).bool() | ~among.unsqueeze(1), float("-inf"))
    assert torch.allclose(cosine, full.amax(-1), atol=1e-6)
    found = cosine.isfinite()
    assert torch.equal(place[found], full.argmax(-1)[found])
    assert not bool(place[~found].any())


# ---- spans ----


def test_spans_are_found():
    mask = torch.tensor([[0, 1, 1, 0, 1, 0], [1, 1, 0, 0, 0, 0], [0] * 6]).bool()
    ids = number_runs(mask)
    assert ids.tolist() == [[0, 1, 1, 0, 2, 0], [1, 1, 0, 0, 0, 0], [0] * 6]
    spans = find_spans(ids, None)
    assert (spans.samples, spans.start.tolist(), spans.tokens) == ((0, 0, 1), [1, 4, 0], (2, 1, 2))
    assert spans.counts.tolist() == [2, 1, 2]
    assert spans.longest == 2
    assert spans.per_sample(3) == (3, 2, 0)
    columns, valid = spans.columns()
    assert columns.tolist() == [[1, 2], [4, 4], [0, 1]]
    assert valid.tolist() == [[True, True], [True, False], [True, True]]


def test_neighbouring_clips_with_numbers_of_their_own():
    spans = find_spans(torch.tensor([[0, 1, 1, 2, 2, 2]]), None)
    assert (spans.start.tolist(), spans.tokens) == ([1, 3], (2, 3))


def test_spans_refuse_pieces_and_hidden_tokens():
    with pytest.raises(ModelError, match="several pieces"):
        find_spans(torch.tensor([[1, 0, 1]]), None)
    with pytest.raises(ModelError, match="columns 1 to 2"):
        find_spans(torch.tensor([[0, 1, 1]]), torch.tensor([[True, True, False]]))


# ---- the reduction ----


def _random_case(seed):
    """A batch with padding on either side, random clips and a random plan; and the same as plain lists."""
    rng = random.Random(seed)
    samples, width = [], 0
    for _ in range(rng.randint(1, 3)):
        parts = [("text", rng.randint(1, 3))]
        for _ in range(rng.randint(0, 2)):
            parts += [("clip", rng.randint(1, 6)), ("text", rng.randint(1, 2))]
        samples.append(parts)
        width = max(width, sum(n for _, n in parts))
    if not any(kind == "clip" for parts in samples for kind, _ in parts):
        samples[0] += [("clip", 3)]
        width = max(width, sum(n for _, n in samples[0]))
    ids, valid = torch.zeros(len(samples), width, dtype=torch.int64), torch.zeros(len(samples), width, dtype=torch.bool)
    clips = []
    for row, parts in enumerate(samples):
        column = rng.choice([0, width - sum(n for _, n in parts)])
        number = 0
        for kind, n in parts:
            valid[row, column : column + n] = True
            if kind == "clip":
                number += 1
                ids[row, column : column + n] = number
                clips.append((row, column, n))
            column += n
    merges = rng.random() < 0.7
    longest = max(n for *_, n in clips)
    cluster = torch.full((len(clips), longest), -1)
    weight = torch.rand(len(clips), longest, generator=_generator(seed)) + 0.1
    survivors = []
    for c, (_, _, n) in enumerate(clips):
        keep = rng.randrange(n)
        count = 0
        for i in range(n):
            if i == keep or rng.random() < 0.5 or (merges and count == 0):
                cluster[c, i] = count
                count += 1
            elif merges and rng.random() < 0.7:
                cluster[c, i] = rng.randrange(count)  # joins any earlier cluster, neighbours or not
        survivors.append(count)
    spans = find_spans(ids, None if bool(valid.all()) else valid)
    lengths = tuple(int(n) for n in valid.sum(1))
    stream = Stream(lengths, width, None if bool(valid.all()) else valid, spans)
    plan = TokenPlan(cluster, weight if merges and rng.random() < 0.7 else None, merges)
    return stream, plan, survivors, clips, valid


@FEW
@given(numbers)
def test_reduction_is_the_loop(seed):
    stream, plan, survivors, clips, valid = _random_case(seed)
    h = torch.randn(len(stream.lengths), stream.width, 5, generator=_generator(seed + 1))
    reduction, after = apply_plan(stream, plan, survivors)
    reduced, selected = reduction.reduce(h), reduction.select(h)
    assert reduced.shape[1] == after.width == max(after.lengths)
    for row in range(len(h)):
        means, own, text = [], [], []
        inside = {}
        for c, (r, start, n) in enumerate(clips):
            if r == row:
                inside |= {start + i: (c, i) for i in range(n)}
        for column in range(stream.width):
            if not valid[row, column]:
                continue
            if column not in inside:
                means.append(h[row, column])
                own.append(h[row, column])
                text.append(len(means) - 1)
                continue
            c, i = inside[column]
            cluster = int(plan.cluster[c, i])
            members = [j for j in range(clips[c][2]) if int(plan.cluster[c, j]) == cluster]
            if cluster < 0 or members[0] != i:
                continue
            weights = [1.0 if plan.weight is None else float(plan.weight[c, j]) for j in members]
            mean = sum(w * h[row, clips[c][1] + j] for w, j in zip(weights, members, strict=True)) / sum(weights)
            means.append(mean)
            own.append(h[row, column])
        assert after.lengths[row] == len(means)
        padding = after.width - len(means)
        assert torch.allclose(reduced[row, padding:], torch.stack(means), atol=1e-5)
        assert torch.equal(selected[row, padding:], torch.stack(own))
        assert not bool(reduced[row, :padding].any())
        for place in text:  # text is copied, to the bit
            assert torch.equal(reduced[row, padding + place], means[place])
        if after.valid is not None:
            assert after.valid[row].tolist() == [False] * padding + [True] * len(means)
    # the clips afterwards: as many tokens as clusters, where the first survivor now stands
    assert after.spans.tokens == tuple(survivors)
    assert after.spans.counts.tolist() == survivors
    again = torch.zeros_like(reduction.source)
    for c, (row, start, n) in enumerate(clips):
        columns = range(int(after.spans.start[c]), int(after.spans.start[c]) + survivors[c])
        for column in columns:
            assert start <= int(reduction.source[row, column]) < start + n
            again[row, column] += 1
    assert int(again.max()) == 1
    # R S = 1
    m = torch.randn(len(h), after.width, 5, generator=_generator(seed + 2))
    back = reduction.reduce(reduction.expand(m))
    shown = torch.ones(m.shape[:2], dtype=torch.bool) if after.valid is None else after.valid
    assert torch.allclose(back[shown], m[shown], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_that_do_not_merge_are_copied_to_the_bit(dtype):
    stream = Stream((8,), 8, None, find_spans(torch.tensor([[0, 0, 1, 1, 1, 1, 0, 0]]), None))
    plan = TokenPlan(torch.tensor([[0, 1, 1, 2]]), torch.tensor([[1e-30, 0.3, 0.7, 0.0]]))
    h = torch.randn(1, 8, 4, generator=_generator(0)).to(dtype)
    reduced = apply_plan(stream, plan, (3,))[0].reduce(h)
    assert reduced.dtype == dtype
    for new, old in ((0, 0), (1, 1), (2, 2), (4, 5), (5, 6), (6, 7)):
        assert torch.equal(reduced[0, new], h[0, old])


def test_a_cluster_without_weight_takes_the_plain_mean():
    stream = Stream((4,), 4, None, find_spans(torch.tensor([[1, 1, 1, 1]]), None))
    plan = TokenPlan(torch.tensor([[0, 0, 1, -1]]), torch.zeros(1, 4))
    h = torch.randn(1, 4, 3, generator=_generator(0), requires_grad=True)
    reduced = apply_plan(stream, plan, (2,))[0].reduce(h)
    assert torch.allclose(reduced[0], torch.stack([h[0, :2].mean(0), h[0, 2]]))
    reduced.sum().backward()
    assert h.grad[0, :, 0].tolist() == [0.5, 0.5, 1.0, 0.0]
