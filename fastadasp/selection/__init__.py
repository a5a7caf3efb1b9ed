"""Layer selection on calibration clips: what a selector may look at, what it answers, and where answers are kept."""
