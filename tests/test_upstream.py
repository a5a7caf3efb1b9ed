"""What is taken from transformers: its names, and its own lists of models."""

from __future__ import annotations

import inspect
from typing import Any

import transformers
from transformers.models.auto import modeling_auto

from fastadasp.strategy import get_registry

SOUND = ("audio", "speech", "sound", "input_features", "input_values")
"""Arguments of a model's ``forward`` that start like this hold sound."""

MAPPINGS = (
    modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
)


def takes_sound(names: Any) -> bool:
    classes = [getattr(transformers, name) for name in ([names] if isinstance(names, str) else names)]
    return any(argument.startswith(SOUND) for cls in classes for argument in inspect.signature(cls.forward).parameters)


def test_every_model_of_transformers_that_hears_is_supported_or_refused_by_name() -> None:
    ours = {entry.name for entry in get_registry().entries("model")}
    theirs = {kind for mapping in MAPPINGS for kind, names in mapping.items() if takes_sound(names)}
    assert {"qwen2_audio", "whisper", "voxtral"} <= theirs
    assert sorted(theirs - ours) == [], "add each to fastadasp/models/families.py: usable, or refused with the reason"
