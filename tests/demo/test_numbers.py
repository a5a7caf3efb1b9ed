"""Joined numbers: the same everywhere, never cut, in equal shares of length, and parted by recording."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fastadasp.contracts.task import CHOOSING, REPORTING
from fastadasp.demo import data_path, numbers
from fastadasp.demo.prompts import WORDS
from fastadasp.errors import DataError
from fastadasp.strategy import get_registry
from fastadasp.tasks.manifest import ManifestTask

pytestmark = pytest.mark.usefixtures("own_cache")

FOLDER = data_path() / "digits"
KINDS: tuple[numbers.Kind, ...] = ("plain", "noise", "fast")


def plans(kind: numbers.Kind, part: str) -> list[numbers.Clip]:
    return [numbers.plan(FOLDER, kind, part, number) for number in range(numbers.COUNTS[part])]


@pytest.mark.parametrize("kind", KINDS)
def test_clips_are_as_planned(kind: numbers.Kind) -> None:
    made = plans(kind, REPORTING)
    assert len(made) == 600
    lengths = np.array([clip.samples for clip in made]) / numbers.RATE
    assert lengths.max() <= 30
    edges = np.linspace(numbers.SHORTEST, numbers.LONGEST, numbers.STEPS + 1) / numbers.RATE
    shares, _ = np.histogram(lengths, edges)
    assert shares.sum() >= 590  # a few are a little shorter, for the want of another digit
    assert min(shares) >= 110
    assert {len(clip.digits) for clip in made} == set(range(2, 21))
    assert len({clip.digits for clip in made}) == 600
    first = made[:32]  # what a comparison takes by itself: a fair mix
    assert 12 <= sum(clip.digits[0].seen for clip in first) <= 20
    few, _ = np.histogram(lengths[:32], edges)
    assert min(few) >= 5
    assert all(len({d.speaker for d in clip.digits}) == 1 for clip in made)
    if kind == "noise":
        assert {clip.decibels for clip in made} == set(range(11))
    if kind == "fast":
        assert {clip.speed for clip in made} == set(numbers.SPEEDS)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_the_same_on_every_machine(kind: numbers.Kind) -> None:
    known = json.loads((FOLDER / "digits.json").read_text(encoding="utf-8"))["checksums"][kind]
    for part in (CHOOSING, REPORTING):
        assert len(known[part]) == numbers.COUNTS[part]
        for number in (0, 1, 4, numbers.COUNTS[part] - 1):
            clip = numbers.plan(FOLDER, kind, part, number)
            wave = numbers.sound(FOLDER, clip)
            assert numbers.checksum(wave) == known[part][number]
            assert len(wave) == clip.samples


def test_no_recording_is_in_both_parts() -> None:
    used = {part: {d for kind in KINDS for clip in plans(kind, part) for d in clip.digits} for part in numbers.COUNTS}
    assert not used[CHOOSING] & used[REPORTING]
    assert len(used[REPORTING]) > 550
    every = json.loads((FOLDER / "digits.json").read_text(encoding="utf-8"))["speakers"]
    assert sum(len(about["recordings"]) for about in every.values()) == 750
    assert [name for name, about in every.items() if not about["seen"]] == ["jackson"]


def test_what_is_said_is_what_the_reference_says() -> None:
    """Digits stand where the plan has them, at their level, with silence between them."""
    clip = next(c for c in plans("plain", REPORTING) if c.decibels is None)
    wave, begin = numbers.sound(FOLDER, clip).astype(float), 0
    for digit, pause in zip(clip.digits, clip.pauses[:-1], strict=True):
        assert not wave[begin : begin + pause].any()
        begin += pause
        own = numbers._recording(FOLDER, digit)
        part = wave[begin : begin + digit.length]
        assert np.corrcoef(part, own)[0, 1] > 0.999
        begin += digit.length
    (line,) = [r for r in numbers.rows(FOLDER, "plain", REPORTING, "st") if r["id"] == f"st-{clip.name[-3:]}"]
    assert line["reference"] == " ".join(WORDS["st"][digit.digit] for digit in clip.digits)


def test_noise_is_as_loud_as_it_says() -> None:
    clip = plans("noise", REPORTING)[3]
    assert clip.decibels is not None
    noisy = numbers.sound(FOLDER, clip).astype(float)
    plain = numbers.sound(FOLDER, numbers.Clip(**{**vars(clip), "decibels": None})).astype(float)
    scale = (noisy @ plain) / (plain @ plain)
    noise = noisy - scale * plain
    ratio = 10 * np.log10((scale**2 * plain @ plain) / (noise @ noise))
    assert ratio == pytest.approx(clip.decibels, abs=0.3)


@pytest.mark.parametrize("speed", numbers.SPEEDS)
def test_fast_speech_keeps_its_pitch(speed: int) -> None:
    steps = np.arange(2 * numbers.RATE)
    tone = (8000 * np.sin(2 * np.pi * 200 * steps / numbers.RATE)).astype(np.int64)
    fast = numbers.faster(tone, speed)
    assert len(fast) == 10 * len(tone) // speed
    spectrum = np.abs(np.fft.rfft(fast * np.hanning(len(fast))))
    assert np.fft.rfftfreq(len(fast), 1 / numbers.RATE)[spectrum.argmax()] == pytest.approx(200, abs=1)


def test_dice_are_those_of_splitmix64() -> None:
    """First outputs for state 0, as Vigna's reference code gives them."""
    dice = numbers.Dice("x")
    dice.state = 0
    assert [dice.below(1 << 64) for _ in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_the_task_reads_parts_and_few_clips(own_cache: Path) -> None:
    task = get_registry().get("task", "asr")
    assert (task.part, task.usual) == (REPORTING, 32)
    few = task.examples(3)
    assert [soundfile.info(e.audio).samplerate for e in few] == [8000] * 3
    assert len(list(own_cache.rglob("*.flac"))) == 3
    chosen = task.calibration(2)
    assert [e.tags["part"] for e in chosen] == [CHOOSING] * 2
    assert not {e.id for e in chosen} & {e.id for e in few}
    assert task.of_part(CHOOSING).calibration(2) == []
    assert [e.audio for e in get_registry().get("task", "st").examples(3)] == [e.audio for e in few]
    with pytest.raises(DataError, match=r"not 'chosing'\. Did you mean 'choosing'"):
        task.of_part("chosing")
    with pytest.raises(DataError, match="does not part"):
        get_registry().get("task", "asr-72").of_part(CHOOSING)


def test_sparse_tasks_are_parted_by_recording_and_speaker() -> None:
    for name, counts in {"er": (24, 63), "gender": (16, 48), "sqa": (96, 288)}.items():
        task = get_registry().get("task", name)
        assert isinstance(task, ManifestTask)
        choosing, reporting = task.of_part(CHOOSING).examples(), task.examples()
        assert (len(choosing), len(reporting)) == counts
        assert not {e.audio for e in choosing} & {e.audio for e in reporting}
        if name != "sqa":
            assert not {e.tags["speaker"] for e in choosing} & {e.tags["speaker"] for e in reporting}
        else:
            assert set(Counter(e.audio for e in reporting).values()) == {6}


def test_changed_recordings_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    shutil.copytree(FOLDER, folder)
    wave, rate = soundfile.read(folder / "jackson.flac", dtype="int16")
    soundfile.write(folder / "jackson.flac", wave // 2, rate)
    with pytest.raises(DataError, match="has other samples than it should"):
        list(numbers.rows(folder, "plain", CHOOSING, "asr"))
