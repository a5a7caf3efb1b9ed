"""Conformance checks for the authors of plugins: does a component keep the contract that the engine relies on?

Each check runs a component on small random audio, on the CPU and, where there is one, on a GPU, and raises
`ConformanceError` (an AssertionError) at the first promise that it breaks: what was done, what came out, and what was
expected. They need no test framework and no installation of the component:

    from fastadasp.testing import check_scorer

    def test_loudness_is_a_scorer():
        check_scorer(Loudness(power=2.0))

For tests of what a component promises beyond that, `view_of` makes the layers that it is shown.
"""

from __future__ import annotations

from fastadasp.testing.failure import ConformanceError
from fastadasp.testing.mergers import check_merger
from fastadasp.testing.schedules import check_schedule
from fastadasp.testing.scorers import check_scorer
from fastadasp.testing.selectors import check_layer_selector
from fastadasp.testing.strategies import check_strategy
from fastadasp.testing.tasks import check_task
from fastadasp.testing.views import Prompt, view_of

__all__ = [
    "ConformanceError",
    "Prompt",
    "check_layer_selector",
    "check_merger",
    "check_schedule",
    "check_scorer",
    "check_strategy",
    "check_task",
    "view_of",
]
