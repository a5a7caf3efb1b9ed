"""Joined numbers: what is asked for can be heard."""

from __future__ import annotations

import numpy as np

from tools.demo.audio import LONGEST, RATE, join


def test_recordings_that_do_not_fit_are_left_out_whole() -> None:
    waves = [np.full(2 * RATE, 0.1 * (number + 1), np.float32) for number in range(20)]
    for seed in range(5):
        sound, heard = join(waves, np.random.default_rng(seed))
        assert len(sound) <= LONGEST
        assert 11 <= heard < 15  # 2 s each, and pauses of 0.04 to 0.45 s
        assert np.count_nonzero(sound) == heard * 2 * RATE  # none is cut
        few, all_of_them = join(waves[:3], np.random.default_rng(seed))
        assert all_of_them == 3
        assert len(few) < LONGEST
