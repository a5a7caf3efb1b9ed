"""The check of layer selectors."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

from fastadasp.contracts.components import LayerSelector
from fastadasp.contracts.task import Example
from fastadasp.counts.budget import Budget
from fastadasp.errors import StrategyError
from fastadasp.inference.clips import ReadyClip
from fastadasp.inference.load import LoadedModel
from fastadasp.selection.calibrated import CalibratedSelector
from fastadasp.selection.calibration import Calibration
from fastadasp.selection.choice import LayerChoice
from fastadasp.selection.select import check_choice
from fastadasp.strategy import Strategy
from fastadasp.testing.component import component
from fastadasp.testing.failure import Subject, describe
from fastadasp.testing.model import embeddings, small_decoder
from fastadasp.testing.parts import plain_strategy
from fastadasp.testing.views import Prompt

DEPTHS = (1, 2, 4, 8, 12, 16, 24, 28, 32, 36, 40, 48, 64, 80)
CLIPS = (Prompt((3, 5), (40,), 1), Prompt((4, 6), (32,), 2), Prompt((2, 5), (48,), 3))


def check_layer_selector(selector: LayerSelector | type[LayerSelector] | str) -> None:
    """Checks that a layer selector keeps its contract.

    For models of 1 to 80 layers it gives a layer that exists, the same every time, or refuses with a StrategyError. One
    that is calibrated refuses until it has chosen, gives the layer that it is told, and chooses one of the candidates,
    with a finite loss for each, the same twice, on three clips of random sound and a decoder of random weights.

    Args:
        selector: an object, a class (made with its defaults) or an installed name.

    Raises:
        ConformanceError: it does not.
    """
    made, subject = component("layer-selector", selector, LayerSelector)
    if not isinstance(made, CalibratedSelector):
        _check_layers(subject, made)
        return
    open_selector = made.model_copy(update={"layer": None})
    at = subject.when("start_layer(32) before a layer was chosen")
    with suppress(StrategyError):
        at.fail(f"layer {open_selector.start_layer(32)}", "a StrategyError")
    told = made.model_copy(update={"layer": 1})
    _check_layers(subject, told)
    at = subject.when("start_layer(32) with layer = 1")
    at.expect(told.start_layer(32) == 1, str(told.start_layer(32)), "1, the layer that was chosen")
    _check_choice(subject, open_selector)


def _check_layers(subject: Subject, selector: LayerSelector) -> None:
    refused, works = "", 0
    for layers in DEPTHS:
        at = subject.when(f"start_layer({layers})")
        try:
            start = selector.start_layer(layers)
        except StrategyError as error:
            refused = str(error)
            continue
        except Exception as error:
            at.fail(f"{type(error).__name__}: {error}", "a layer, or a StrategyError that says why there is none")
        at.expect(type(start) is int and 0 <= start < layers, describe(start), f"an int from 0 to {layers - 1}")
        at.expect(start == selector.start_layer(layers), "another layer when called again", "the same every time")
        works += 1
    at = subject.when(f"start_layer for models of {', '.join(map(str, DEPTHS))} layers")
    at.expect(works > 0, f"all refused: {refused}", "a layer for some of them")


def _check_choice(subject: Subject, selector: CalibratedSelector) -> None:
    subject = subject.when("choose(calibration) on three clips of random sound")
    strategy = plain_strategy().replace(layers=selector)
    choices = []
    for _ in range(2):
        calibration = _calibration(strategy, selector)
        choice = subject.call("a LayerChoice", selector.choose, calibration)
        subject.expect(isinstance(choice, LayerChoice), describe(choice), "a LayerChoice")
        subject.call("a loss for every candidate", check_choice, selector, choice, calibration)
        finite = all(abs(loss) < float("inf") for loss in choice.losses.values())
        subject.expect(finite, repr(choice.losses), "losses that are finite")
        choices.append(choice)
    subject.expect(choices[0] == choices[1], f"{choices[0]}, then {choices[1]}", "the same choice every time")


def _calibration(strategy: Strategy, selector: CalibratedSelector) -> Calibration:
    model = small_decoder(6)
    clips = []
    for place, prompt in enumerate(CLIPS):
        example = Example(f"clip-{place}", Path(f"{place}.wav"), "", "")
        clips.append(ReadyClip(example, embeddings(model, prompt), torch.tensor(prompt.span_ids())))
    loaded = LoadedModel(model, None, "a decoder of random weights", "cpu", "float32")
    return Calibration(loaded, strategy, clips, Budget(flops=min(selector.flops, 0.3)), max_new_tokens=4)
