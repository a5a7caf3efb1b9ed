"""WavLLM's prompts and features. Source: ``speechllm_dataset.py`` and ``sequence_generator.py`` of WavLLM."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, ProcessorMixin

from fastadasp.errors import DataError
from fastadasp.models.wavllm.encoders import halved

AUDIO = "<|audio|>"
SYSTEM = (
    "As a helpful language and speech assistant, you are able to understand the speech content provided by the user, "
    "and assist the user with a variety of tasks using natural language."
)
TEMPLATE = (
    "{% set system = namespace(text='" + SYSTEM + "') %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}"
    "{% set system.text = message['content'] if message['content'] is string else message['content'][0]['text'] %}"
    "{% endif %}{% endfor %}"
    "[INST]<<SYS>>\n{{ system.text }}\n<</SYS>>\n\n<SPEECH>"
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'audio' %}"
    + AUDIO
    + "{% endif %}{% endfor %} </SPEECH> "
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{% endif %}{% endfor %} [/INST]"
)
"""One question about one clip; the original knows no other form."""

_AFTER = re.compile(r" </SPEECH> (.*) \[/INST\]", re.DOTALL)
STRIDES = (5, 2, 2, 2, 2, 2, 2)
KERNELS = (10, 3, 3, 3, 3, 2, 2)
"""WavLM's convolutions over samples."""
SHORTEST = 400
"""Samples of WavLM's first time step."""


class WavLLMProcessor(ProcessorMixin):
    """Whisper's features, plain samples for WavLM, and the prompt in three parts.

    The parts before and after the clip are tokenised by themselves; the latter's first token (a space) gives way to the
    start token, as in the released inference code. `prompt_ids` is the instruction alone, in quotes.
    """

    def __init__(
        self,
        feature_extractor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        audio_token: str = AUDIO,
    ) -> None:
        self.audio_token = audio_token
        super().__init__(  # type: ignore[no-untyped-call]
            feature_extractor, tokenizer, chat_template=chat_template or TEMPLATE
        )

    def __call__(
        self,
        text: str | Sequence[str],
        audio: Any,
        sampling_rate: int | None = None,
        padding: bool = True,
        return_tensors: str = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Inputs of the model: one prompt with one clip in each row, padded on the left.

        Args:
            text: prompts in the form of the chat template, each with one audio token.
            audio: a clip for each, mono float [samples].
            sampling_rate: of the clips, in Hz; has to be the model's.

        Raises:
            DataError: the prompts are not of that form, or clips are missing, too long, empty, or of another rate.
        """
        texts = [text] if isinstance(text, str) else list(text)
        clips = [np.asarray(clip, dtype=np.float32) for clip in ([audio] if np.ndim(audio[0]) == 0 else audio)]
        rate = self.feature_extractor.sampling_rate
        if sampling_rate not in (None, rate):
            raise DataError(f"the clips are sampled at {sampling_rate} Hz; this model hears {rate} Hz")
        if len(texts) != len(clips):
            raise DataError(f"{len(texts)} prompts, but {len(clips)} clips; every prompt has one")
        window = self.feature_extractor.n_samples
        for clip in clips:
            if not SHORTEST <= len(clip) <= window:
                raise DataError(
                    f"a clip has {len(clip)} samples; this model hears {SHORTEST} to {window} (at {rate} Hz)"
                )
        heard = self.feature_extractor(clips, sampling_rate=rate, return_attention_mask=True, return_tensors="pt")
        frames = heard["attention_mask"].sum(-1).tolist()
        counts = [self.audio_tokens(n, len(clip)) for n, clip in zip(frames, clips, strict=True)]
        ids, prompts = zip(*map(self._encode, texts, counts), strict=True)
        pad = self.tokenizer.pad_token_id
        inputs = {
            "input_ids": pad_sequence(list(ids), batch_first=True, padding_value=pad, padding_side="left"),
            "attention_mask": _mask(ids, "left"),
            "input_features": heard["input_features"],
            "feature_attention_mask": heard["attention_mask"],
            "speech_values": pad_sequence([torch.from_numpy(clip) for clip in clips], batch_first=True),
            "speech_attention_mask": _mask(clips, "right"),
            "prompt_ids": pad_sequence(list(prompts), batch_first=True, padding_value=pad),
            "prompt_mask": _mask(prompts, "right"),
        }
        return BatchFeature(inputs, tensor_type=return_tensors)

    @staticmethod
    def audio_tokens(frames: int, samples: int) -> int:
        """Audio tokens of a clip of so many mel frames and samples: about 12.5 a second."""
        for kernel, stride in zip(KERNELS, STRIDES, strict=True):
            samples = (samples - kernel) // stride + 1
        return int(min(halved(halved(halved(frames))), halved(halved(samples))))

    def _encode(self, text: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The ids of a prompt whose clip has `count` audio tokens, and of its instruction alone."""
        before, *after = text.split(self.audio_token)
        found = _AFTER.fullmatch(after[0]) if len(after) == 1 else None
        if found is None:
            raise DataError(
                f"a prompt of WavLLM asks one question about one clip, as its chat template puts it; got {text!r}"
            )

        def ids(part: str) -> list[int]:
            return list(self.tokenizer(part, add_special_tokens=False)["input_ids"])

        start, placeholder = self.tokenizer.bos_token_id, self.tokenizer.convert_tokens_to_ids(self.audio_token)
        whole = [start, *ids(before), *[placeholder] * count, start, *ids(after[0])[1:]]
        return torch.tensor(whole), torch.tensor(ids(f'"{found[1]}"'))


def _mask(rows: Sequence[Any], side: str) -> torch.Tensor:
    """1 where rows of unequal length have something, padded on `side`."""
    return pad_sequence([torch.ones(len(row), dtype=torch.int64) for row in rows], batch_first=True, padding_side=side)
