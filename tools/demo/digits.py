"""Packs the single digits that spoken numbers are joined from: ``python -m tools.demo.digits --data DIR --out DIR``.

All held-out recordings (`tools.demo.splits`), one FLAC file a speaker, 8 kHz, each recording at full level in 11 bits;
and ``digits.json`` with where each lies and the checksum of every clip that `fastadasp.demo.numbers` makes of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, get_args

import numpy as np
import soundfile
import typer
from numpy.typing import NDArray

from fastadasp.demo import numbers
from fastadasp.errors import DataError
from tools.demo.splits import Recording, load_recordings
from tools.running import run

BITS = 11
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def pack(recordings: list[Recording], out: Path) -> int:
    """Writes the speakers' files and the index; gives the bytes of all."""
    out.mkdir(parents=True, exist_ok=True)
    index: dict[str, dict[str, object]] = {}
    spared = sorted((r for r in recordings if r.folder == "digits" and r.test), key=lambda r: r.path.name)
    for speaker in sorted({r.speaker for r in spared}):
        own = [r for r in spared if r.speaker == speaker]
        waves = [_levelled(r.path) for r in own]
        soundfile.write(out / f"{speaker}.flac", np.concatenate(waves), numbers.RATE, "PCM_16", compression_level=1.0)
        entries = [[int(r.labels["digit"]), len(wave)] for r, wave in zip(own, waves, strict=True)]
        index[speaker] = {"seen": own[0].seen, "recordings": entries}
    numbers._read_index.cache_clear()
    numbers._index.cache_clear()
    numbers._speaker.cache_clear()
    (out / "digits.json").write_text(json.dumps({"speakers": index}), encoding="utf-8")
    sums = {
        kind: {
            part: [
                numbers.checksum(numbers.sound(out, numbers.plan(out, kind, part, number))) for number in range(count)
            ]
            for part, count in numbers.COUNTS.items()
        }
        for kind in get_args(numbers.Kind)
    }
    text = json.dumps({"speakers": index, "checksums": sums}, separators=(",", ":"))
    (out / "digits.json").write_text(text.replace('"checksums"', '\n"checksums"') + "\n", encoding="utf-8")
    numbers._read_index.cache_clear()
    return sum(file.stat().st_size for file in out.iterdir())


def _levelled(path: Path) -> NDArray[np.int16]:
    wave, rate = soundfile.read(path, dtype="int16")
    if rate != numbers.RATE or wave.ndim != 1:
        raise DataError(f"{path} is not mono at {numbers.RATE} Hz")
    top, peak = (1 << (BITS - 1)) - 1, max(int(np.abs(wave.astype(np.int64)).max()), 1)
    level = (2 * wave.astype(np.int64) * top + peak) // (2 * peak)
    out: NDArray[np.int16] = (level << (16 - BITS)).astype(np.int16)
    return out


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="folder with digits/, emotion/, orders/ and voices/")],
    out: Annotated[Path, typer.Option(help="folder for the files")] = Path("demo-digits"),
) -> None:
    """Pack the held-out digits."""
    if not data.is_dir():
        raise DataError(f"--data {data} is not a folder")
    print(f"{pack(load_recordings(data), out)} bytes written to {out}")


if __name__ == "__main__":
    run(app)
