"""What a caller says by positions of the prompt: position ids, masks, token types, and outputs asked for by token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family_models import family_model, prompt
from tiny import AUDIO, LAYERS, MANY, ONE, audio_model, batch, embed, error, strategy, text_model

from fastadasp import ModelError, StrategyError
from fastadasp.upstream.names import cache_argument, cache_of

pytestmark = pytest.mark.usefixtures("no_grad")


def _kept_by_hand(model: Any, inputs: dict[str, Any], positions: Any, name: str) -> tuple[Any, Any]:
    """Logits of a pruning before layer 0, and the plain decoder's on the tokens that are left, at their positions."""
    method = strategy(name, layers={"name": "fixed", "layer": 0}, site="input", select="random")
    with method.apply(model) as trace:
        trace.keep_assignment = True
        ours = model(**inputs, position_ids=positions).logits
    where = trace.assignment[0]
    left = torch.tensor([int((where == i).nonzero()[0]) for i in range(int(where.max()) + 1)])
    states, _ = embed(model, inputs)
    decoder = model.model.language_model
    mask = inputs["attention_mask"][:, left]
    hidden = decoder(inputs_embeds=states[:, left], position_ids=positions[:, left], attention_mask=mask)
    return ours, model.lm_head(hidden.last_hidden_state)


GAPS = {"moved": (0, 0, 40), "a gap before the text": (0, 9, 0), "the text first": (60, -60, 0)}


@pytest.mark.parametrize("case", GAPS)
def test_position_ids_of_the_caller_go_with_their_tokens(case: str) -> None:
    model, inputs = audio_model(), batch(ONE)
    start, gap, all_ = GAPS[case]
    positions = torch.arange(len(ONE)).unsqueeze(0) + all_
    positions[:, :5] += start
    positions[:, 28:] += gap
    ours, expected = _kept_by_hand(model, inputs, positions.clamp_min(0), "prune")
    assert ours.shape[1] < len(ONE)
    assert error(ours, expected) <= 1e-5


def test_position_ids_of_the_caller_make_a_difference() -> None:
    model, inputs = audio_model(), batch(ONE)
    positions = torch.arange(len(ONE)).unsqueeze(0)
    for kept in ("original", "even", "compact"):
        with strategy("weighted", positions=kept).apply(model):
            plain = model(**inputs).logits
            assert torch.equal(model(**inputs, position_ids=positions).logits, plain)
            far = positions + 30 * (positions >= 28)
            assert error(model(**inputs, position_ids=far).logits[:, -1], plain[:, -1]) > 1e-3


@pytest.mark.parametrize("name", ["weighted", "prune", "cache", "before"])
def test_text_that_is_masked_out_is_not_there(name: str) -> None:
    """A hole in the text, before and after the clip: as if the prompt did not have these tokens."""
    model, inputs = audio_model(), batch(ONE)
    mask = inputs["attention_mask"].clone()
    mask[:, [2, 30]] = 0
    places = (mask.cumsum(1) - 1).clamp_min(0)
    shown = mask[0].bool()
    short = inputs | {k: inputs[k][:, shown] for k in ("input_ids", "attention_mask")}
    with strategy(name).apply(model):
        ours = model(**inputs | {"attention_mask": mask}, position_ids=places)
        alone = model(**short)
        assert error(ours.logits[:, -1], alone.logits[:, -1]) <= 1e-5
        token = torch.tensor([[7]])
        for out, before in ((ours, mask), (alone, short["attention_mask"])):
            out.next = model(
                input_ids=token,
                attention_mask=torch.nn.functional.pad(before, (0, 1), value=1),
                position_ids=torch.tensor([[len(ONE) - 2]]),
                **cache_argument(cache_of(out)),
            ).logits
        assert error(ours.next, alone.next) <= 1e-5


def test_a_mask_that_hides_what_was_shown_is_refused() -> None:
    """In a later turn and in a decoding step; a mask that only grows is right."""
    model, inputs = audio_model(), batch(ONE)
    for more in (3, 1):
        with strategy("weighted").apply(model):
            for hidden in (3, 20, None):
                cache = cache_of(model(**inputs, use_cache=True))
                mask = torch.nn.functional.pad(inputs["attention_mask"], (0, more), value=1)
                given = {"input_ids": torch.full((1, more), 7), "attention_mask": mask, **cache_argument(cache)}
                if hidden is None:
                    model(**given)
                    mask = given["attention_mask"] = torch.nn.functional.pad(mask, (0, more), value=1)
                    mask[:, len(ONE)] = 0
                else:
                    mask[:, hidden] = 0
                with pytest.raises(ModelError, match=r"hides tokens that earlier calls .* have shown"):
                    model(**given)


def test_several_prompts_in_one_row_are_refused() -> None:
    """Transformers finds them by their positions where there is neither a mask nor a cache."""
    model = text_model()
    states = torch.randn(1, 40, 32, generator=torch.Generator().manual_seed(0))
    spans = torch.zeros(1, 40, dtype=torch.int64)
    spans[:, 3:13], spans[:, 23:33] = 1, 2
    packed = torch.arange(40).unsqueeze(0) % 20
    with strategy("weighted").apply(model, spans=spans) as trace:
        with pytest.raises(ModelError, match=r"position_ids do not go up by one,.* give one prompt a row"):
            model(inputs_embeds=states, position_ids=packed, use_cache=False)
        for name in ("cu_seq_lens_q", "seq_idx"):
            with pytest.raises(ModelError, match=f"{name} tells several prompts in one row apart"):
                model(inputs_embeds=states, **{name: torch.tensor([0, 20, 40])})
        model(inputs_embeds=states, position_ids=torch.arange(40).unsqueeze(0), use_cache=False)
        model(inputs_embeds=states, position_ids=packed, use_cache=True)  # one prompt for transformers, too
        model(inputs_embeds=states, position_ids=packed, attention_mask=torch.ones(1, 40), use_cache=False)
    assert trace.layers[-1].audio_tokens == 10


def test_labels_that_are_shifted_already_are_refused() -> None:
    model, inputs = audio_model(), batch(ONE)
    labels = inputs["input_ids"]
    with strategy("weighted").apply(model), pytest.raises(StrategyError, match="shift_labels name the tokens"):
        model(**inputs, labels=labels, shift_labels=labels)


@pytest.mark.parametrize("kind", [1, 2])
def test_token_types_that_mark_images(kind: int) -> None:
    """Audio is type 3; images look both ways, which is not kept."""
    model, inputs = family_model("gemma4_unified"), prompt("gemma4_unified", 5, 6)
    types = 3 * (inputs["input_ids"] == AUDIO).long()
    with strategy("weighted").apply(model):
        plain = model(**inputs | {"mm_token_type_ids": types}).logits
        assert error(plain, model(**inputs).logits) == 0
        types[:, :3] = kind
        with pytest.raises(ModelError, match="leave images and videos out"):
            model(**inputs | {"mm_token_type_ids": types})


@pytest.mark.parametrize("side", ["left", "right"])
def test_hidden_states_and_attentions_of_a_batch_are_those_of_each_prompt(side: str) -> None:
    """Of the tokens that each layer saw; padding stands on the left wherever tokens are gone."""
    model = audio_model("eager")
    asked = {"output_hidden_states": True, "output_attentions": True}
    with strategy("fastadasp-dense").apply(model) as trace:
        inputs = batch(*MANY, side=side)
        places = (inputs["attention_mask"].cumsum(1) - 1).masked_fill(inputs["attention_mask"] == 0, 1)
        together = model(**inputs, position_ids=places, **asked)
        layers = list(trace.layers)
        for row, sample in enumerate(MANY):
            alone = model(**batch(sample), **asked)
            for i in range(LAYERS):
                count = layers[i].tokens_in_per_sample[row]
                theirs, ours = alone.hidden_states[i][0], together.hidden_states[i][row]
                moved = ours.shape[0] < inputs["input_ids"].shape[1] or side == "left"
                part = slice(ours.shape[0] - count, None) if moved else slice(0, count)
                assert theirs.shape[0] == count
                assert error(ours[part], theirs) <= 1e-5
                assert error(together.attentions[i][row][:, part, part], alone.attentions[i][0]) <= 1e-5


def test_generation_gives_hidden_states_and_attentions_too() -> None:
    model, inputs = audio_model("eager"), batch(ONE)
    with strategy("weighted").apply(model) as trace:
        out = model.generate(
            **inputs,
            max_new_tokens=3,
            return_dict_in_generate=True,
            output_hidden_states=True,
            output_attentions=True,
        )
    widths = [layer.tokens_in_per_sample[0] for layer in trace.layers]
    assert [h.shape[1] for h in out.hidden_states[0][:-1]] == widths
    assert [a.shape[-1] for a in out.attentions[0]] == widths
    assert [a.shape[-1] for a in out.attentions[2]] == [n + 2 for n in widths]
