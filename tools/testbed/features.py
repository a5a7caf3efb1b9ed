"""What Whisper's encoder makes of training speech, computed once.

python -m tools.testbed.features --encoder FOLDER_OR_HUB_ID --out FOLDER --speech FOLDER [FOLDER ...]
python -m tools.testbed.features --encoder FOLDER_OR_HUB_ID --out FOLDER --manifest manifest.jsonl [--transcribe]

The encoder always reads 30 seconds, so made clips share a window, one after the other with pauses; each keeps its own
frames. Recordings of a manifest have a window each, as in use. With --transcribe their labels are what Whisper itself
writes (`"label": "whisper"` in the index); with labels of their own they stay as they are.
--speech takes folders of speech.py.

FOLDER/frames.f16 has float16 [frames, width]; FOLDER/index.jsonl a line for each clip.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tools.demo.audio import RATE, Wave, read
from tools.testbed import texts

MERGE = 4
"""Frames of one audio token."""
STEP = 320 * MERGE
"""Samples of one audio token."""
WINDOW = 30 * RATE


@dataclass
class Clip:
    wave: Wave
    about: dict[str, Any]
    start: int = 0
    """Sample of its window at which it begins."""


def frames_of(samples: int) -> int:
    """Encoder frames of a clip, in whole audio tokens, as the processor of the family counts them."""
    mel = -(-samples // 160)
    return -(-((mel - 1) // 2 + 1) // MERGE) * MERGE


def packed(clips: Iterator[Clip], rng: np.random.Generator) -> Iterator[list[Clip]]:
    """Clips one after the other in windows of 30 s, each at the start of an audio token, with 0.3 to 0.8 s between."""
    window: list[Clip] = []
    at = 0
    for clip in clips:
        if at + len(clip.wave) > WINDOW - STEP:
            yield window
            window, at = [], 0
        clip.start = at
        window.append(clip)
        at += -(-(len(clip.wave) + int(RATE * rng.uniform(0.3, 0.8))) // STEP) * STEP
    if window:
        yield window


def made(folders: list[Path]) -> Iterator[Clip]:
    for folder in folders:
        sound = np.memmap(folder / "sound.i16", "<i2", "r")
        for line in (folder / "index.jsonl").read_text().splitlines():
            about = json.loads(line)
            wave = np.float32(1 / 32768) * sound[about["start"] : about["start"] + about["samples"]].astype(np.float32)
            yield Clip(wave, {"text": about["text"], "source": about["voice"], "label": "exact"})


def recorded(manifest: Path, limit: int | None, keep_apart: int) -> Iterator[Clip]:
    lines = [json.loads(line) for line in manifest.read_text().splitlines()][:limit]
    for number, line in enumerate(lines):
        about = {"source": f"{manifest.parent.name}/{line['audio_filepath']}", "label": "exact"}
        about |= {"text": texts.normalise(line["text"])} if "text" in line else {}
        if number < keep_apart:
            about["split"] = "choose"
        yield Clip(read(manifest.parent / line["audio_filepath"])[: WINDOW - STEP], about)


def load_whisper(name: str, dtype: torch.dtype) -> Any:
    from transformers import WhisperForConditionalGeneration

    return WhisperForConditionalGeneration.from_pretrained(name, dtype=dtype, trust_remote_code=False).eval()


def written(whisper: Any, tokenizer: Any, encoded: Tensor, seconds: float) -> list[str]:
    """What Whisper writes for encoder states [B, 1500, width] of at most `seconds` of English, without times."""
    from transformers.modeling_outputs import BaseModelOutput

    prompt = tokenizer.convert_tokens_to_ids(["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"])
    out = whisper.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
        decoder_input_ids=torch.tensor([prompt]).expand(len(encoded), -1),
        max_new_tokens=int(8 * seconds) + 8,
        do_sample=False,
        num_beams=1,
    )
    return [str(text).strip() for text in tokenizer.batch_decode(out, skip_special_tokens=True)]


def grouped(windows: Iterator[list[Clip]], size: int) -> Iterator[list[list[Clip]]]:
    """Windows in groups of `size`."""
    while group := list(itertools.islice(windows, size)):
        yield group


@torch.inference_mode()
def encode(whisper: Any, mel: Any, windows: list[list[Clip]]) -> Tensor:
    """Encoder states [windows, 1500, width]."""
    sounds = np.zeros((len(windows), WINDOW), np.float32)
    for sound, clips in zip(sounds, windows, strict=True):
        for clip in clips:
            sound[clip.start : clip.start + len(clip.wave)] = clip.wave
    features = mel(list(sounds), sampling_rate=RATE, return_tensors="pt").input_features
    states: Tensor = whisper.model.encoder(features.to(whisper.dtype)).last_hidden_state
    return states


def label(windows: list[list[Clip]], said: list[str]) -> None:
    """Each window's one clip gets what Whisper wrote. One whose figures have many readings goes."""
    for clips, text in zip(windows, said, strict=True):
        words = texts.without_figures(text)
        if words is None:
            print(f"left out: {text}")
            clips.clear()
        else:
            clips[0].about |= {"text": texts.normalise(words), "label": "whisper"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--speech", type=Path, nargs="*", default=[])
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--keep-apart", type=int, default=0, help="first clips of the manifest, for choosing only")
    parser.add_argument("--transcribe", action="store_true")
    asked = parser.parse_args()
    from transformers import AutoTokenizer, WhisperFeatureExtractor

    whisper = load_whisper(asked.encoder, torch.bfloat16)
    mel = WhisperFeatureExtractor(feature_size=whisper.config.num_mel_bins)
    tokenizer = AutoTokenizer.from_pretrained(asked.encoder, trust_remote_code=False) if asked.transcribe else None
    windows: Iterator[list[Clip]]
    if asked.manifest:
        windows = ([clip] for clip in recorded(asked.manifest, asked.limit, asked.keep_apart))
    else:
        windows = packed(made(asked.speech), np.random.default_rng(0))
    asked.out.mkdir(parents=True, exist_ok=True)
    position, begun, count = 0, time.monotonic(), 0
    with (asked.out / "frames.f16").open("wb") as frames, (asked.out / "index.jsonl").open("w") as index:
        for group in grouped(windows, 8 if asked.transcribe else 2):
            states = encode(whisper, mel, group)
            if tokenizer is not None:
                label(group, written(whisper, tokenizer, states, max(len(c.wave) for (c,) in group) / RATE))
            for clips, rows in zip(group, states.to(torch.float16).numpy(), strict=True):
                for clip in clips:
                    first, length = clip.start // 320, frames_of(len(clip.wave))
                    frames.write(rows[first : first + length].tobytes())
                    index.write(json.dumps({"start": position, "frames": length} | clip.about) + "\n")
                    position += length
            frames.flush()
            index.flush()
            count += len(group)
            print(f"{count} windows, {(time.monotonic() - begun) / count:.2f} s each", flush=True)
    print(f"{position / 50 / 3600:.2f} hours")


if __name__ == "__main__":
    main()
