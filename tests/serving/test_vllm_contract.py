"""What fastadasp takes for granted of vLLM, whose names are private: a new release is checked here first."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
from typing import Any

import pytest
from inside import MARKS, started

from fastadasp.serving.options import ARCHITECTURES, PREFIX

pytestmark = MARKS

PROCESSOR = {
    "_apply_hf_processor_main": ["self", "mm_items", "hf_kwargs"],
    "_get_mm_fields_config": ["self", "hf_inputs", "hf_processor_mm_kwargs"],
    "_get_prompt_updates": ["self", "mm_items", "hf_processor_mm_kwargs", "out_mm_kwargs"],
    "_maybe_apply_prompt_updates": ["self", "mm_items", "mm_res"],
    "apply": ["self", "inputs", "timing_ctx"],
}
MODEL = {
    "embed_input_ids": {"input_ids", "multimodal_embeddings", "is_multimodal"},
    "forward": {"input_ids", "positions", "intermediate_tensors", "inputs_embeds"},
}


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.fixture(scope="module")
def private() -> Any:
    from fastadasp.serving.vllm import private

    return private


@pytest.mark.parametrize("method", PROCESSOR)
def test_a_processor_has_what_is_overridden(private, method: str) -> None:
    assert parameters(getattr(private.BaseMultiModalProcessor, method)) == PROCESSOR[method]
    assert callable(private.BaseMultiModalProcessor.get_dummy_mm_inputs)


def test_small_things_have_their_form(private) -> None:
    details = [field.name for field in dataclasses.fields(private.PromptUpdateDetails)]
    assert details == ["full", "is_embed"]
    places = [field.name for field in dataclasses.fields(private.PlaceholderFeaturesInfo)]
    assert places == ["modality", "item_idx", "start_idx", "tokens", "is_embed"]
    assert "keep_on_cpu" in parameters(private.MultiModalFieldConfig.batched)
    assert parameters(private.MultiModalKwargsItems.from_hf_inputs) == ["hf_inputs", "config_by_key"]
    assert {"modality", "target", "replacement"} <= set(parameters(private.PromptReplacement))
    assert parameters(private.SupportsMRoPE.get_mrope_input_positions) == ["self", "input_tokens", "mm_features"]
    for method in ("verify_and_update_model_config", "verify_and_update_config"):
        assert len(parameters(getattr(private.VerifyAndUpdateConfig, method))) == 1


def test_registering_adds_our_architectures_and_changes_no_other() -> None:
    code = """
import json
from vllm.model_executor.models.config import MODELS_CONFIG_MAP as configs
from vllm.model_executor.models.registry import ModelRegistry
models, checks = dict(ModelRegistry.models), dict(configs)
from fastadasp.serving.vllm import register
register(); register()
same = all(ModelRegistry.models[k] is v for k, v in models.items()) and all(configs[k] is v for k, v in checks.items())
print(json.dumps([same, sorted(set(ModelRegistry.models) - set(models)), sorted(set(configs) - set(checks))]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    same, models, checks = json.loads(done.stdout.splitlines()[-1])
    assert same
    assert models == checks == sorted(PREFIX + name for name in ARCHITECTURES)


def test_without_the_plugin_vllm_refuses_instead_of_serving_the_full_model() -> None:
    asked = [{"setting": {"strategy": "uniform"}, "asks": []}]
    done = started("run.py", "served", asked, VLLM_PLUGINS="none")
    assert done.returncode != 0
    assert "FastAdaSPQwen2AudioForConditionalGeneration" in done.stdout + done.stderr
    assert "not supported" in done.stdout + done.stderr


def test_families_have_what_is_overridden() -> None:
    """In a process of its own: some of vLLM's families import what only the tests' extra folder has."""
    code = f"""
import inspect, json
from fastadasp.serving.vllm import private
found = {{}}
for name in {list(ARCHITECTURES)!r}:
    try:
        model = private.stock_model(name)
    except ModuleNotFoundError as error:
        found[name] = str(error)
        continue
    parts = private.factories(model)
    found[name] = [callable(model.embed_multimodal), all(isinstance(part, type) for part in parts),
                   issubclass(parts[0], private.BaseMultiModalProcessor)]
    found[name] += [list(inspect.signature(getattr(model, method)).parameters) for method in {list(MODEL)!r}]
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found["Qwen2AudioForConditionalGeneration"], list)
    for name, seen in found.items():
        if isinstance(seen, str):  # this environment lacks what the family imports
            assert "torchvision" in seen, (name, seen)
            continue
        assert seen[:3] == [True, True, True], name
        for given, wanted in zip(seen[3:], MODEL.values(), strict=True):
            assert wanted <= set(given) or "kwargs" in given, (name, given)
