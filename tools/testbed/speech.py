"""Makes training speech with synthesisers that are installed: espeak-ng, flite, and a Piper voice (optional).

python -m tools.testbed.speech --out FOLDER --text FILE [FILE ...] --clips 2000 [--piper VOICE.onnx] [--seed 0]
writes FOLDER/sound.i16 (mono int16 at 16 kHz, one clip after the other) and FOLDER/index.jsonl.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tools.demo.audio import RATE, Wave, disturb, resample
from tools.testbed import texts

FLITE = ("slt", "rms", "awb", "kal16")
ESPEAK = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-us-nyc", "en-gb-x-gbclan", "en-gb-x-gbcwmd")
ESPEAK_VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5", "klatt2", "klatt4")


def flite(text: str, rng: np.random.Generator) -> tuple[Wave, int, str]:
    voice = str(rng.choice(FLITE, p=(0.35, 0.3, 0.3, 0.05)))
    stretch = f"duration_stretch={rng.uniform(0.85, 1.25):.2f}"
    command = ["flite", "-voice", voice, "--setf", stretch, "-t", text, "-o", "/dev/stdout"]
    return *_wave(subprocess.run(command, capture_output=True, check=True).stdout), f"flite {voice}"


def espeak(text: str, rng: np.random.Generator) -> tuple[Wave, int, str]:
    voice = f"{rng.choice(ESPEAK)}+{rng.choice(ESPEAK_VARIANTS)}"
    command = ["espeak-ng", "-v", voice, "-s", str(rng.integers(125, 190)), "-p", str(rng.integers(25, 75)), "--stdout"]
    return *_wave(subprocess.run([*command, text], capture_output=True, check=True).stdout), f"espeak-ng {voice}"


class Piper:
    """One neural voice; rate and variation are drawn for each clip."""

    def __init__(self, path: Path) -> None:
        import onnxruntime  # type: ignore[import-not-found]
        from piper import PiperVoice  # type: ignore[import-not-found]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.voice = PiperVoice.load(str(path))
        self.voice.session = onnxruntime.InferenceSession(str(path), options)
        self.name = path.stem

    def __call__(self, text: str, rng: np.random.Generator) -> tuple[Wave, int, str]:
        from piper.config import SynthesisConfig  # type: ignore[import-not-found]

        drawn = rng.uniform((0.85, 0.4, 0.5), (1.3, 0.9, 1.0))
        how = SynthesisConfig(length_scale=drawn[0], noise_scale=drawn[1], noise_w_scale=drawn[2])
        chunks = list(self.voice.synthesize(text, how))
        wave = np.concatenate([np.frombuffer(c.audio_int16_bytes, np.int16) for c in chunks])
        return _floats(wave), chunks[0].sample_rate, f"piper {self.name}"


def _wave(data: bytes) -> tuple[Wave, int]:
    """A WAV file whose header may not know its length, since it came through a pipe."""
    start = data.index(b"data") + 8
    rate = soundfile.info(io.BytesIO(data[:4] + (2**31 - 1).to_bytes(4, "little") + data[8:])).samplerate
    return _floats(np.frombuffer(data[start : start + (len(data) - start) // 2 * 2], "<i2")), rate


def _floats(samples: Any) -> Wave:
    wave: Wave = samples.astype(np.float32) * np.float32(1 / 32768)
    return wave


def trimmed(wave: Wave, pad: int = RATE // 10) -> Wave:
    """Without the silence at both ends, but for 0.1 s."""
    loud = np.flatnonzero(np.abs(wave) > 0.01 * np.abs(wave).max())
    return wave[max(loud[0] - pad, 0) : loud[-1] + pad] if len(loud) else wave


def room(wave: Wave, rng: np.random.Generator) -> Wave:
    """The sound of a small room: noise that decays in 0.1 to 0.4 s, added softly."""
    length = int(RATE * rng.uniform(0.1, 0.4))
    tail = rng.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length)
    tail *= rng.uniform(0.1, 0.5) / np.sqrt((tail**2).sum())
    tail[0] = 1.0
    size = len(wave) + length
    return np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(tail, size), size)[: len(wave)].astype(np.float32)


def vary(wave: Wave, rate: int, rng: np.random.Generator) -> Wave:
    """Another voice of the same one: speed and pitch by 0.85 to 1.2, some with a room, then noise and level."""
    wave = trimmed(resample(wave, rate, float(rng.uniform(0.85, 1.2))))
    return disturb(room(wave, rng) if rng.random() < 0.4 else wave, rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--kept-apart", type=Path, help="manifest.jsonl whose texts must not be spoken here")
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--piper", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng = np.random.default_rng(asked.seed)
    found = texts.sentences(asked.text)
    if asked.kept_apart:
        lines = [json.loads(line) for line in asked.kept_apart.read_text().splitlines()]
        apart = set().union(*(texts.runs(line["text"]) for line in lines))
        found = [text for text in found if not texts.overlapping(text, apart)]
    engines: list[Any] = [flite, espeak] + ([Piper(asked.piper)] if asked.piper else [])
    shares = (0.4, 0.15, 0.45) if asked.piper else (0.65, 0.35)
    asked.out.mkdir(parents=True, exist_ok=True)
    position, seconds = 0, 0.0
    with (asked.out / "sound.i16").open("wb") as sound, (asked.out / "index.jsonl").open("w") as index:
        for text in texts.draw(found, asked.clips, asked.seed):
            wave, rate, voice = engines[rng.choice(len(engines), p=shares)](text, rng)
            wave = vary(wave, rate, rng)
            if not 0.8 * RATE < len(wave) < 16 * RATE:
                continue
            sound.write((wave * 32767).astype("<i2").tobytes())
            line = {"start": position, "samples": len(wave), "text": texts.normalise(text), "voice": voice}
            index.write(json.dumps(line) + "\n")
            position += len(wave)
            seconds += len(wave) / RATE
    print(f"{seconds / 3600:.2f} hours from {len(found)} sentences")


if __name__ == "__main__":
    main()
