"""Budgets in FLOPs and KV bytes: reading, solving, refusing, and meeting them inside a model."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field
from tiny import MANY, ONE, TEXT, Sample, audio_model, batch, strategy, strategy_names

import fastadasp
from fastadasp import Budget, DecoderShape, Schedule, Strategy, StrategyError
from fastadasp.counts.solve import EXACT, BatchLengths, Solution, batch_removals_after, reach
from fastadasp.inference.costs import sample_costs

PAPER = DecoderShape(layers=32, hidden=4096, heads=32, kv_heads=32, head_dim=128, mlp=11008)
"""The decoder that paper.md section 6 reckons with."""
TINY = DecoderShape(layers=4, hidden=32, heads=4, kv_heads=2, head_dim=8, mlp=48)
SCHEDULES = ("constant", "decay", "single-shot")
MERGERS = {"runs": "key-similarity", "pairs": "key-similarity", "drop": "received-attention"}


def recipe(schedule: Any, merger: str = "runs", start: int = 2, **changes: Any) -> Strategy:
    layers = {"name": "fixed", "layer": start}
    parts = {"select": MERGERS[merger], "merger": merger, "schedule": schedule, "layers": layers}
    return fastadasp.load_strategy({"name": "x", **parts}, **changes)


# Reading


@pytest.mark.parametrize("kind", ["flops", "kv"])
def test_kinds_read_print_and_store(kind: str) -> None:
    budget = Budget.of(f"{kind}=0.3")
    assert budget == Budget.of({kind: 0.3}) == Budget(**{kind: 0.3})
    assert (str(budget), budget.kind, budget.fraction, budget.per_prompt) == (f"{kind}=0.3", kind, 0.3, True)
    method = fastadasp.load_strategy("weighted", **{kind: 0.3})
    assert method.budget == budget
    assert method == fastadasp.load_strategy("weighted", budget=f"{kind}=0.3") == method.with_budget(budget)
    assert Strategy.from_dict(method.to_dict()) == method
    assert f"{kind} = 0.3" in method.to_toml()
    with pytest.raises(StrategyError, match=f"budget {kind} is the fraction removed"):
        Budget.of(f"{kind}=1.5")
    with pytest.raises(StrategyError, match=f"budget {kind}=0.3 depends on model and prompt"):
        budget.ratio_for(method.schedule, 2, 10)


def test_a_prefix_holds_until_the_next() -> None:
    def read(*values: Any) -> list[str]:
        return [str(budget) for budget in Budget.several(values)]

    assert read("flops=0.1", "0.2", "0.3") == ["flops=0.1", "flops=0.2", "flops=0.3"]
    assert read("0.5", "kv=0.1", "0.2", "tokens=0.3", "0.4") == ["0.5", "kv=0.1", "kv=0.2", "0.3", "0.4"]
    assert read("ratio = 0.1", "0.2", 0.3, Budget(kv=0.4), "0.5") == [
        "ratio=0.1",
        "ratio=0.2",
        "0.3",
        "kv=0.4",
        "ratio=0.5",
    ]
    for wrong, said in ((["flops=0.1", "x"], "not 'x'"), (["flop=0.1"], "Did you mean 'flops'"), (["0"], "not '0'")):
        with pytest.raises(StrategyError, match=said):
            Budget.several(wrong)


# Solving


@pytest.mark.parametrize(
    ("schedule", "ratios", "left"),
    [
        ("constant", (0.0085, 0.018, 0.029, 0.044, 0.064), 0.15),
        ("decay", (0.013, 0.027, 0.043, 0.063, 0.088), 0.27),
        ("single-shot", (0.113, 0.225, 0.339, 0.453, 0.568), 1 - 0.568),
    ],
)
def test_the_papers_ratios_come_out(schedule: str, ratios: tuple[float, ...], left: float) -> None:
    """paper.md section 6: 750 audio and 50 text tokens, start layer 2."""
    for goal, ratio in zip((0.1, 0.2, 0.3, 0.4, 0.5), ratios, strict=True):
        solution = recipe(schedule, flops=goal).solve(PAPER, 50, [750])
        assert solution.flops_removed == pytest.approx(goal, abs=5e-4)
        assert solution.ratio == pytest.approx(ratio, abs=6e-4)  # as printed there, to the last digit
        released = recipe(schedule, ratio=solution.ratio).solve(PAPER, 50, [750])
        assert released.flops_removed == pytest.approx(goal, abs=EXACT)
    assert 1 - solution.tokens_removed == pytest.approx(left, abs=0.005)


shapes = st.builds(
    lambda layers, heads, groups, dim, mlp: DecoderShape(layers, heads * dim, heads, heads // groups, dim, mlp),
    st.integers(3, 40),
    st.sampled_from([4, 8, 32]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([16, 64, 128]),
    st.integers(32, 14000),
)
prompts = st.tuples(st.integers(0, 400), st.lists(st.integers(1, 1500), min_size=1, max_size=3))


@given(
    st.sampled_from(SCHEDULES),
    st.sampled_from(list(MERGERS)),
    st.sampled_from(["flops", "kv"]),
    st.floats(0.01, 0.95),
    shapes,
    prompts,
    st.data(),
)
@settings(max_examples=150, deadline=None)
def test_exact_or_refused(
    schedule: str, merger: str, kind: str, goal: float, shape: DecoderShape, prompt: Any, data: st.DataObject
) -> None:
    """Whatever the schedule, start, merger, shape and prompt: within 0.2 points in whole tokens, or refused."""
    text, clips = prompt
    start = data.draw(st.integers(0, shape.layers - 1))
    method = recipe(schedule, merger, start, **{kind: goal})
    least, most = reach(method, shape, text, clips)
    try:
        solution = method.solve(shape, text, clips)
    except StrategyError as error:
        message = str(error)
    else:
        assert getattr(solution, f"{kind}_removed") == pytest.approx(goal, abs=EXACT + 1e-12)
        check(method, shape, text, clips, solution)
        return
    if least <= goal <= most:  # one token more or less, in one clip, weighs more than twice what is allowed
        assert "cannot be met to 0.002" in message
        solution = method.solve(shape, text, clips, nearest=True)
        check(method, shape, text, clips, solution)
        assert EXACT < abs(getattr(solution, f"{kind}_removed") - goal) <= 1.5 / (text + sum(clips))
    else:
        assert "removes 0 to" in message


def check(method: Strategy, shape: DecoderShape, text: int, clips: list[int], solution: Solution) -> None:
    """The counts are ones that the engine can carry out, and the fractions are those of the counts."""
    start = method.layers.start_layer(shape.layers)
    ratios = method.schedule.ratios(solution.ratio, start, shape.layers)
    for tokens, path in zip(clips, solution.survivors, strict=True):
        assert all(isinstance(count, int) and count >= 1 for count in path)
        for before, after, fraction in zip((tokens, *path), path, ratios, strict=False):
            assert 0 <= before - after <= method.merger.capacity(before)
            assert before == after or fraction > 0
            raw = min(int(before * fraction), method.merger.capacity(before))
            assert abs(before - after - raw) <= 1
    full = text + sum(clips)
    left = [text + sum(counts) for counts in zip(*solution.survivors, strict=True)]
    entered = [full, *left[:-1]]
    flops = shape.prefill_flops(list(zip(entered, left, strict=True)))
    assert solution.flops_removed == pytest.approx(1 - flops / shape.prefill_flops([(full, full)] * shape.layers))
    assert solution.kv_removed == pytest.approx(1 - sum(entered) / (shape.layers * full))
    assert solution.tokens_removed == pytest.approx((full - left[-1]) / sum(clips))


def test_budgets_that_hold_in_any_prompt_are_solved_too() -> None:
    solution = recipe("single-shot", tokens=0.4).solve(PAPER, 50, [700, 50])
    assert (solution.ratio, solution.tokens_removed) == (0.4, pytest.approx(0.4))
    assert solution.survivors[1] == (50, 50, *(30,) * 30)
    assert recipe("constant", ratio=0.05).solve(PAPER, 50, [750]).ratio == 0.05


def test_out_of_reach_tells_the_range() -> None:
    with pytest.raises(StrategyError) as caught:
        recipe("single-shot", flops=0.9).solve(PAPER, 50, [400, 350])
    assert str(caught.value).startswith(
        "budget flops=0.9 cannot be met: schedule 'single-shot' with merger 'runs' from layer 2 of 32, "
        "on a prompt of 50 text and 400 + 350 audio tokens, removes 0 to 0.8"
    )
    with pytest.raises(StrategyError, match=r"merger 'pairs'.*removes 0 to 0\.\d+ of the KV bytes"):
        recipe("single-shot", "pairs", kv=0.6).solve(PAPER, 50, [750])


def test_a_site_in_the_cache_saves_bytes_and_no_flops() -> None:
    """As for evicting keys and values: every layer computes on everything, but its own cache is the shorter one."""
    method = recipe("single-shot", kv=0.4).model_copy(update={"site": "cache"})
    solution = method.solve(PAPER, 50, [750])
    assert (solution.flops_removed, solution.kv_removed) == (0, pytest.approx(0.4, abs=EXACT))
    gone = 750 - solution.survivors[0][-1]
    assert solution.kv_removed == pytest.approx(30 * gone / (32 * 800))
    with pytest.raises(StrategyError, match="removes 0 to 0 of the prefill FLOPs"):
        method.model_copy(update={"budget": Budget(flops=0.1)}).solve(PAPER, 50, [750])


def test_prompts_too_short_to_be_exact() -> None:
    method = recipe("single-shot", start=1, flops=0.3)
    with pytest.raises(StrategyError, match=r"goes from 0\.\d+ to 0\.\d+ of the prefill FLOPs with the next token"):
        method.solve(TINY, 12, [23])
    solution = method.solve(TINY, 12, [23], nearest=True)
    others = [
        recipe("single-shot", start=1, ratio=k / 23 + 1e-9).solve(TINY, 12, [23]).flops_removed for k in range(1, 23)
    ]
    assert abs(solution.flops_removed - 0.3) == min(abs(share - 0.3) for share in others)


class Jumps(Schedule):
    name = "jumps"
    steps: list[float] = Field(default=[0.25, 0.75])

    def ratios(self, ratio: float, start: int, num_layers: int) -> tuple[float, ...]:
        share = max([step for step in self.steps if step <= ratio], default=0.0)
        return tuple(share if i == start else 0.0 for i in range(num_layers))


def test_schedules_that_jump_are_refused() -> None:
    """Also with ``nearest``: more than a token lies between. The list makes the component unhashable."""
    method = recipe(Jumps(), flops=0.4)
    for nearest in (False, True):
        with pytest.raises(StrategyError, match=r"goes from 0\.2\d+ to 0\.6\d+ .* with the next ratio"):
            method.solve(PAPER, 50, [750], nearest=nearest)


# In the engine


def costs(method: Strategy, samples: tuple[Sample, ...]) -> list[Any]:
    model = audio_model()
    with torch.no_grad(), method.apply(model) as trace:
        model(**batch(*samples))
    shape = DecoderShape.of(model.config.text_config)
    return sample_costs(shape, trace.layers, [sum(s.clips) for s in samples], [len(s) for s in samples], 4)


@pytest.mark.parametrize("kind", ["flops", "kv"])
@pytest.mark.parametrize("name", strategy_names())
def test_every_sample_of_a_batch_meets_the_budget(name: str, kind: str) -> None:
    """As near as whole tokens allow; the sample without audio is left alone."""
    goal = 0.12 if strategy(name).schedule.exit_layer(1, 4) is None else 0.3  # below it all audio leaves for more
    method = strategy(name, budget=f"{kind}={goal}")
    if method.site == "cache" and kind == "flops":
        pytest.skip("nothing to save at this site")
    if method.then is not None:  # leaves room for the first stage
        method = method.replace(**{"then.budget": 0.05})
    for sample, cost in zip(MANY, costs(method, MANY), strict=True):
        flops, kv = 1 - cost.flops / cost.flops_full, 1 - cost.kv_bytes / cost.kv_bytes_full
        if not sample.clips:
            assert (flops, kv) == (0, 0)
            continue
        solution = method.solve(TINY, sum(sample.text), sample.clips, nearest=True)
        if method.merger.across_heads:  # all heads are as wide as the longest
            assert (flops, solution.kv_removed) == (0, pytest.approx(goal, abs=0.5 / len(sample)))
            assert 0 < kv <= solution.kv_removed + 1e-9
        elif method.merger.is_exact():
            assert (flops, kv) == (pytest.approx(solution.flops_removed), pytest.approx(solution.kv_removed))
            step = (1.5 if kind == "flops" else 1) / len(sample)  # attention: a token saves more than its share
            assert (flops if kind == "flops" else kv) == pytest.approx(goal, abs=step / 2)
        else:
            assert 0 < (flops if kind == "flops" else kv) <= goal + 1 / len(sample)


def test_tiny_is_the_tiny_models_shape() -> None:
    assert DecoderShape.of(audio_model().config.text_config) == TINY
    assert TEXT["num_hidden_layers"] == TINY.layers


def test_a_prompt_that_cannot_meet_it_is_refused_and_leaves_the_model_whole() -> None:
    model, inputs = audio_model(), batch(ONE, Sample((30, 5), (1,), seed=8))
    with torch.no_grad():
        plain = model(**inputs).logits
        with strategy("weighted", flops=0.2).apply(model) as trace:
            with pytest.raises(StrategyError, match="on a prompt of 35 text and 1 audio tokens, removes 0 to 0 of the"):
                model(**inputs)
            model(**batch(ONE))
            assert trace.layers[-1].audio_tokens < 23
        assert torch.equal(model(**inputs).logits, plain)


def test_a_faulty_start_is_refused_on_entering() -> None:
    with pytest.raises(StrategyError, match="start layer 9 does not exist"):
        strategy("weighted", flops=0.2, layers={"name": "fixed", "layer": 9}).apply(audio_model()).__enter__()


def test_the_rest_makes_up_for_a_merger_that_is_not_exact() -> None:
    """Layer 2 took half of what it was asked for: the later layers take more, and the budget is met all the same."""
    method = recipe("constant", flops=0.3)
    solution = method.solve(PAPER, 50, [750])
    before = [750, *solution.survivors[0]]
    asked = [a - b for a, b in pairwise(before)]
    taken = [(0,), (0,), (asked[2] // 2,)]
    rest = batch_removals_after(method, 32, lambda: PAPER, BatchLengths((750,), (0,), (800,)), taken)
    assert len(rest) == 29
    assert rest[0][0] >= asked[3]
    now, path = 800, []
    for (count,) in [*taken, *rest]:
        path.append((now, now - count))
        now -= count
    assert 1 - PAPER.prefill_flops(path) / PAPER.prefill_flops([(800, 800)] * 32) == pytest.approx(0.3, abs=EXACT)
