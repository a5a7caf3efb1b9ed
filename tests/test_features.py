"""A strategy on features alone: the counts, the shortened clips, and why some recipes cannot."""

from __future__ import annotations

import pytest
import torch
from tiny import MANY, ONE, audio_model, batch

import fastadasp
from fastadasp import StrategyError, load_strategy
from fastadasp.demo import data_path, model_path
from fastadasp.demo.prompts import build_prompt
from fastadasp.demo.rows import instruction, read_rows

AT_INPUT = {"site": "input", "layers": {"layer": 0}}
SERVED = ("affinity-pooling", "divprune", "uniform", "random-prune")


def recipe(name: str, **changes):
    return load_strategy(name, **AT_INPUT, **changes)


@pytest.fixture(scope="module")
def embedded():
    return fastadasp.load_model(str(model_path()))


def entering(loaded, row, method=None):
    """What enters layer 0 of the embedded model, and its rotary embeddings: states [T, D]; the audio's columns."""
    from fastadasp.audio import read_audio

    wave = read_audio(data_path() / row["audio_filepath"], 16000)
    text = build_prompt(instruction(row))
    inputs = loaded.processor(text=[text], audio=[wave], sampling_rate=16000, return_tensors="pt")
    audio = (inputs["input_ids"][0] == loaded.model.config.audio_token_id).nonzero().flatten()
    seen = []
    layer = loaded.model.get_decoder().layers[0]
    hook = layer.input_layernorm.register_forward_pre_hook(lambda module, args: seen.append(args[0][0].clone()))
    try:
        with torch.no_grad():
            if method is None:
                loaded.model(**inputs)
            else:
                with method.apply(loaded.model):
                    loaded.model(**inputs)
    finally:
        hook.remove()
    return seen[0], audio


@pytest.mark.parametrize("name", SERVED)
def test_features_alone_are_what_the_engine_makes_of_them(embedded, name):
    rows = read_rows(data_path(), ["asr"], 3)
    layers = len(embedded.model.get_decoder().layers)
    method, clips, engine = recipe(name), [], []
    for row in rows:
        states, audio = entering(embedded, row)
        clips.append(states[audio])
        short, _ = entering(embedded, row, method)
        first = int(audio[0])
        engine.append(short[first : first + len(audio) - (len(states) - len(short))])
    made = method.reduce(clips, layers)
    for clip, theirs, ours in zip(clips, engine, made, strict=True):
        assert len(ours.features) == method.left(len(clip), layers) == len(theirs) < len(clip)
        assert torch.equal(ours.features, theirs)
        assert ours.places.dtype == torch.int64
        assert bool((ours.places.diff() > 0).all())


@pytest.mark.parametrize("name", SERVED)
def test_a_batch_of_features_is_each_clip_alone(name):
    generator = torch.Generator().manual_seed(3)
    clips = [torch.randn(n, 16, generator=generator) for n in (40, 1, 7, 64)]
    method = recipe(name)
    for clip, together in zip(clips, method.reduce(clips, 4, budget=0.3), strict=True):
        (alone,) = method.with_budget(0.3).reduce([clip], 4)
        assert torch.equal(together.places, alone.places)
        assert torch.allclose(together.features, alone.features, atol=1e-6)
        assert len(alone.places) == method.with_budget(0.3).left(len(clip), 4)


def test_a_pruned_clip_is_its_tokens_at_their_places():
    clip = torch.randn(50, 8)
    (short,) = recipe("divprune").reduce([clip], 4, budget="ratio=0.4")
    assert len(short.places) == 30
    assert torch.equal(short.features, clip[short.places])
    assert recipe("divprune").reduce([], 4) == []


REFUSED = {
    "the site": (("uniform", {}), 'acts at the site "block"'),
    "attention": (("fastadasp-dense", AT_INPUT), "needs queries and keys"),
    "text": (("speechprune", AT_INPUT | {"merger": "drop"}), "needs the text of the prompt"),
    "a budget of the prompt": (("uniform", AT_INPUT | {"budget": "kv=0.3"}), "depends on the whole prompt"),
    "counts of its own": (("affinity-pooling", {"merger": {"name": "pairs", "overlap": "skip"}}), "other counts"),
    "a second stage": (
        (
            "uniform",
            AT_INPUT | {"then": {"select": "random", "merger": "drop", "schedule": "single-shot", "layers": "fixed"}},
        ),
        "second stage",
    ),
    "a later layer": (("uniform", {"site": "input"}), "removes tokens at layer 1"),
    "many layers": (("uniform", AT_INPUT | {"schedule": "constant"}), "removes tokens at layer 0, 1, 2, 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_why_a_recipe_cannot_act_on_features_alone(case):
    (name, changes), words = REFUSED[case]
    method = load_strategy(name, **changes)
    told = method.why_not_on_features(4)
    assert told is not None
    assert words in told
    for ask in (lambda: method.left(10, 4), lambda: method.reduce([torch.zeros(10, 4)], 4)):
        with pytest.raises(StrategyError) as caught:
            ask()
        assert str(caught.value) == told
    assert recipe("uniform").why_not_on_features(4) is None


@pytest.mark.parametrize("wrong", [[torch.zeros(3)], [torch.zeros(3, 4, dtype=torch.int64)], [[1.0]],
                                   [torch.zeros(3, 4), torch.zeros(3, 5)]])  # fmt: skip
def test_what_is_no_features_is_refused(wrong):
    with pytest.raises(StrategyError, match=r"^clip \d"):
        recipe("uniform").reduce(wrong, 4)


def positions_at_the_end(method, *samples):
    """Rotary embeddings that the last layer got, [B, T, head dim] of the cosines, and the plain ones."""
    model, out = audio_model(), []
    layers = model.get_decoder().layers
    for chosen in (None, method):
        seen = []
        hook = layers[-1].self_attn.register_forward_pre_hook(
            lambda module, args, kwargs, seen=seen: seen.append(kwargs["position_embeddings"][0].clone()),
            with_kwargs=True,
        )
        with torch.no_grad():
            if chosen is None:
                model(**batch(*samples))
            else:
                with chosen.apply(model):
                    model(**batch(*samples))
        hook.remove()
        out.append(seen[0])
    return out


@pytest.mark.parametrize("schedule", ["single-shot", "constant"])
@pytest.mark.parametrize("merger", ["drop", "runs"])
def test_even_positions_are_equal_steps_over_the_clips_own_span(merger, schedule):
    select = {"drop": "random", "runs": "window-similarity"}[merger]
    method = load_strategy(
        "uniform", select=select, merger=merger, schedule=schedule, positions="even", budget=0.4, layers={"layer": 1}
    )
    plain, short = positions_at_the_end(method, ONE)
    counts = 23 - (plain.shape[1] - short.shape[1])
    steps = [5 + j * 23 // counts for j in range(counts)]
    assert counts < 23
    expected = plain[0, [*range(5), *steps, *range(28, len(ONE))]]
    assert torch.equal(short[0], expected)


def test_even_positions_in_a_padded_batch_are_each_samples_alone():
    method = load_strategy("uniform", select="random", positions="even", budget=0.4)
    model = audio_model()
    with torch.no_grad(), method.apply(model):
        together = model(**batch(*MANY)).logits[:, -1]
        for row, sample in enumerate(MANY):
            assert torch.allclose(together[row], model(**batch(sample)).logits[0, -1], atol=2e-4)
