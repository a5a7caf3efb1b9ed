"""A family's processor with shorter placeholders: it cuts what the family's own returns, and so knows no family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import torch

from fastadasp.serving.options import BUDGET, Serving, client_faults
from fastadasp.serving.vllm.config import serving_of
from fastadasp.serving.vllm.counts import record
from fastadasp.serving.vllm.private import (
    MultiModalFieldConfig,
    MultiModalKwargsItems,
    PlaceholderFeaturesInfo,
    PromptReplacement,
    PromptUpdateDetails,
)
from fastadasp.serving.vllm.remembered import Counts

TOKENS, KEPT = "fastadasp_tokens", "fastadasp_kept"
"""Fields of a clip: its audio tokens before, and after."""
_REHEARSAL: ContextVar[bool] = ContextVar("rehearsal", default=False)
"""While vLLM prepares made-up clips, to know sizes and to warm up; these are no requests."""


def others(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What is not ours among a request's options."""
    return {key: value for key, value in kwargs.items() if key != BUDGET}


def _resolved(replacement: Any, item: int) -> tuple[list[int], Any, list[int]]:
    """A replacement's tokens, its own rule for which are audio, and the columns of these."""
    found = replacement(item) if callable(replacement) else replacement
    rule = found.is_embed if isinstance(found, PromptUpdateDetails) else None
    ids = list(found.full if isinstance(found, PromptUpdateDetails) else found)
    columns = list(range(len(ids))) if rule is None else torch.as_tensor(rule(ids)).nonzero().flatten().tolist()
    return ids, rule, columns


def whole(replacement: Any) -> Callable[[int], list[int]]:
    """All tokens of the family's own replacement, as prompts have them that come with their clips' tokens."""
    return lambda item: _resolved(replacement, item)[0]


def shortened(replacement: Any, kept: Callable[[int], int]) -> Callable[[int], Any]:
    """The family's own replacement with the first `kept(item)` of its audio tokens."""

    def short(item: int) -> Any:
        ids, rule, columns = _resolved(replacement, item)
        gone = set(columns[kept(item) :])
        ids = [token for column, token in enumerate(ids) if column not in gone]
        return ids if rule is None else PromptUpdateDetails(ids, rule)

    return short


class ReducedInfo:
    """Mixin of a family's processing info."""

    def get_hf_processor(self, **kwargs: Any) -> Any:
        """The family's processor, which does not know our option."""
        return super().get_hf_processor(**others(kwargs))  # type: ignore[misc]


class ReducedProcessor:
    """Mixin of a family's multimodal processor."""

    info: Any

    @property
    def serving(self) -> Serving:
        """The strategy of this server."""
        made = self.__dict__.get("_serving")
        if made is None:
            made = self.__dict__["_serving"] = serving_of(self.info.ctx.model_config)
        return made  # type: ignore[no-any-return]

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        found = mm_items.get_all_counts()
        if strangers := [kind for kind, count in found.items() if kind != "audio" and count]:
            raise ValueError(f"a server with a strategy takes audio alone, not {', '.join(strangers)}")
        plain = others(hf_kwargs)
        data = super()._apply_hf_processor_main(mm_items, plain)  # type: ignore[misc]
        clips = found.get("audio", 0)
        if clips:
            fields = super()._get_mm_fields_config(data, plain)  # type: ignore[misc]
            items = MultiModalKwargsItems.from_hf_inputs(data, fields)
            updates = super()._get_prompt_updates(mm_items, plain, items)  # type: ignore[misc]
            audio = next(update for update in updates if update.modality == "audio")
            tokens = [len(_resolved(audio.replacement, i)[2]) for i in range(clips)]
            data[TOKENS] = torch.tensor(tokens)
            with client_faults():
                data[KEPT] = torch.tensor([self.serving.left(n, hf_kwargs.get(BUDGET)) for n in tokens])
        return data

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        fields = dict(super()._get_mm_fields_config(hf_inputs, others(hf_processor_mm_kwargs)))  # type: ignore[misc]
        if TOKENS in hf_inputs:
            fields |= {name: MultiModalFieldConfig.batched("audio", keep_on_cpu=True) for name in (TOKENS, KEPT)}
        return fields

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any) -> Any:
        updates = super()._get_prompt_updates(  # type: ignore[misc]
            mm_items, others(hf_processor_mm_kwargs), out_mm_kwargs
        )
        kept = out_mm_kwargs.get_data().get(KEPT)
        if kept is None:
            return updates
        # A family without a target expects prompts in which every clip has all its tokens already.
        self.__dict__["_whole_prompts"] = any(u.modality == "audio" and u.target == [] for u in updates)
        return [
            PromptReplacement(
                modality="audio",
                target=u.target if u.target != [] else whole(u.replacement),
                replacement=shortened(u.replacement, lambda i: int(kept[i])),
            )
            if u.modality == "audio"
            else u
            for u in updates
        ]

    def _maybe_apply_prompt_updates(self, mm_items: Any, mm_res: Any) -> Any:
        if not self.__dict__.get("_whole_prompts", False):
            return super()._maybe_apply_prompt_updates(mm_items, mm_res)  # type: ignore[misc]
        ids: list[int] = []
        places, at = [], 0
        for i, (update, *_) in enumerate(mm_res.prompt_updates.get("audio", ())):
            found = next(update.iter_token_matches(mm_res.prompt_ids, start_idx=at), None)
            if found is None:
                raise ValueError(f"the prompt has no run of {len(update.target)} audio tokens for clip {i}")
            ids += mm_res.prompt_ids[at : found.start_idx]
            short = update.content.full
            places.append(PlaceholderFeaturesInfo("audio", i, len(ids), short, None))
            ids, at = ids + short, found.end_idx
        return ids + mm_res.prompt_ids[at:], {"audio": places} if places else {}

    def get_dummy_mm_inputs(self, *given: Any, **named: Any) -> Any:
        """What vLLM tries itself out with."""
        token = _REHEARSAL.set(True)
        try:
            return super().get_dummy_mm_inputs(*given, **named)  # type: ignore[misc]
        finally:
            _REHEARSAL.reset(token)

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """The processed request; its counts go to the log and the metrics, whether or not a cache knew its clips."""
        out = super().apply(inputs, timing_ctx)  # type: ignore[misc]
        known: Counts = self.__dict__.setdefault("_full", Counts())
        hashes = out["mm_hashes"].get("audio", ())
        for name, item in zip(hashes, out["mm_kwargs"].get("audio", ()), strict=True):
            if item is not None and TOKENS in item:
                known.put(name, int(item[TOKENS].data))
        before = [count for name in hashes if (count := known.get(name)) is not None]
        if hashes and len(before) == len(hashes) and not _REHEARSAL.get():
            record(sum(before), sum(_audio(at) for at in out["mm_placeholders"]["audio"]))
        return out


def _audio(at: Any) -> int:
    """Audio tokens in a placeholder's range."""
    return int(at.length if at.is_embed is None else at.is_embed.sum())
