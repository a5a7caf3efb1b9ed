"""Qwen-Audio's tokenizer and prompts, from ``qwen.tiktoken``; source: ``tokenization_qwen.py`` of Qwen/Qwen-Audio."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastadasp.errors import ModelError

START, AUDIO, END = "<audio>", "[[[AUDIO:modality]]]", "</audio>"
"""The tokens around a clip, and the placeholder of each of its audio tokens."""

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where text is split before its bytes are merged."""


@dataclass(frozen=True)
class Format:
    """How a conversation becomes a prompt: a Jinja template, and the tokens that end an answer."""

    template: str
    ends: tuple[str, ...]


FORMATS = {
    "chatml": Format(
        "{% for message in messages %}"
        "{% if loop.first and message['role'] != 'system' %}"
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
        "<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% set clips = namespace(count=0) %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'audio' %}{% set clips.count = clips.count + 1 %}"
        f"Audio {{{{ clips.count }}}}:{START}{AUDIO}{END}\n"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
        "<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        ("<|endoftext|>", "<|im_end|>", "<|im_start|>"),
    ),
    "raw": Format(
        "{% for message in messages %}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        f"{{% if part['type'] == 'audio' %}}{START}{AUDIO}{END}"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
        "{% if message['role'] == 'assistant' %}<|endoftext|>{% endif %}{% endfor %}",
        ("<|endoftext|>",),
    ),
}
"""By ``chat_format`` of the checkpoint's generation_config.json: Qwen-Audio-Chat's, and the base model's, which takes
tags such as ``<|startoftranscript|><|en|><|transcribe|><|en|><|notimestamps|><|wo_itn|>`` after the clip."""


def special_tokens() -> list[str]:
    """The tokens after the vocabulary's, in the order of their ids."""
    languages = ("en", "zh", "de", "es", "ko", "fr", "ja", "it")
    return [
        *_tags("endoftext im_start im_end"),
        *(f"<|extra_{i}|>" for i in range(205)),
        AUDIO,
        *_tags("startoftranscript startofanalysis translate transcribe caption keyword unknown"),
        *(f"<|{language}|>" for language in languages),
        *_tags("zh_tr notimestamps sil timestamps"),
        *(f"<|{i * 0.01:.2f}|>" for i in range(3001)),
        *_tags("caption_audiocaps caption_clotho audioset_ontology caption_plain itn wo_itn"),
        *_tags("startofentityvalue endofentityvalue startofentitytype endofentitytype named_entity_recognition"),
        *_tags("audio_grounding startofword endofword delim emotion_recognition music_description note_analysis"),
        *_tags("pitch"),
        *(f"<|midi_pitch_{i}|>" for i in range(128)),
        *_tags("velocity"),
        *(f"<|midi_velocity_{i}|>" for i in range(128)),
        *_tags("sonic instrument speaker_meta song_meta question answer choice scene event vocal_classification"),
        *_tags("speech_understanding scenario action entities speech_edit"),
        START,
        END,
    ]


def _tags(names: str) -> list[str]:
    return [f"<|{name}|>" for name in names.split()]


def read_ranks(path: Path) -> dict[bytes, int]:
    """The vocabulary: each token's bytes and its rank, which is its id. Raises ModelError."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise ModelError(f"{path}, line {number}: expected a token in base64 and its rank") from None
    if sorted(ranks.values()) != list(range(len(ranks))) or len(ranks) < 256:
        raise ModelError(f"{path}: expected 256 tokens or more with ranks from 0 on, found {len(ranks)}")
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise ModelError(f"{path} lacks some of the 256 single bytes")
    return ranks


def token_ids(path: Path) -> dict[str, int]:
    """The ids of the special tokens over the vocabulary at `path`."""
    first = len(read_ranks(path))
    return {token: first + i for i, token in enumerate(special_tokens())}


def make_tokenizer(path: Path) -> Any:
    """A fast tokenizer that splits as tiktoken does with the vocabulary at `path`; pads on the left."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from fastadasp.upstream.texts import bytes_to_unicode

    ranks = read_ranks(path)
    letters = bytes_to_unicode()

    def spelled(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = []
    for token, rank in sorted(ranks.items(), key=lambda entry: entry[1]):
        pieces = split_token(token, ranks, rank)
        if len(pieces) == 2:  # others are only ever found whole
            merges.append((spelled(pieces[0]), spelled(pieces[1])))
    vocabulary = {spelled(token): rank for token, rank in ranks.items()}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    end, *others = special_tokens()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (end, *others)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=end,
        pad_token=end,
        additional_special_tokens=others,
        padding_side="left",
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )


def split_token(token: bytes, ranks: dict[bytes, int], below: int) -> list[bytes]:
    """A token's bytes after all merges of a rank less than `below`, best first."""
    pieces = [token[i : i + 1] for i in range(len(token))]
    while len(pieces) > 1:
        rank, place = min((ranks.get(pieces[i] + pieces[i + 1], below), i) for i in range(len(pieces) - 1))
        if rank >= below:
            break
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    return pieces


def make_processor(path: Path, style: str, mel_bins: int, positions: int) -> Any:
    """Whisper's features (`mel_bins`, a window of twice `positions` frames at 10 ms) and the tokenizer."""
    from transformers import Qwen2AudioProcessor, WhisperFeatureExtractor

    return Qwen2AudioProcessor(
        WhisperFeatureExtractor(feature_size=mel_bins, chunk_length=positions // 50),
        make_tokenizer(path),
        chat_template=FORMATS[style].template,
        audio_token=AUDIO,
        audio_bos_token=START,
        audio_eos_token=END,
    )
