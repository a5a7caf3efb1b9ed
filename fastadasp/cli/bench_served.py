"""``fastadasp bench --engine vllm``: throughput of vLLM's server with a strategy and without."""

from __future__ import annotations

import json
import shlex
from typing import Any

from fastadasp.cli.terminal import interruptible, print_table, say
from fastadasp.errors import RunError

USED = ("seconds", "new_tokens", "strategies", "budgets", "rounds", "warmup")
"""Options of `bench` that mean something here, too."""
DEFAULTS = {"strategies": ("affinity-pooling",), "budgets": ("0.5",)}


def served(
    given: dict[str, Any], of_vllm: dict[str, Any], overrides: dict[str, Any], wide: bool, as_json: bool
) -> None:
    """Measures and prints.

    Args:
        given: the options of `bench`; None where one was not given.
        of_vllm: those that only vLLM has.
        overrides: of every recipe.
        wide: print every column.
        as_json: print rows and no tables.

    Raises:
        RunError: an option that means nothing here, or vLLM is not there.
    """
    from fastadasp.bench import report
    from fastadasp.bench.served import Plan, run

    strangers = [name for name, value in given.items() if value is not None and name not in USED]
    if strangers:
        name = strangers[0].replace("_", "-")
        raise RunError(f"--{name} means nothing with --engine vllm; vLLM's own options go into --server")
    from fastadasp.demo import data_path, model_path

    model = of_vllm["model"] or str(model_path())
    from fastadasp.inference.load import check_folder

    check_folder(model)
    chosen = {**DEFAULTS, **{name: given[name] for name in USED if given[name] is not None}}
    if of_vllm["concurrency"] is not None:
        chosen["concurrency"] = of_vllm["concurrency"]
    sounds = sorted(data_path().glob("audio/number-*.ogg"))
    try:
        more = shlex.split(of_vllm["server"] or "")
    except ValueError as error:
        raise RunError(f"--server {of_vllm['server']!r} is no command line: {str(error).lower()}") from None
    plan = Plan(model, sounds, more=more, overrides=overrides, **chosen)
    rows: list[dict[str, Any]] = []
    with interruptible():  # else a signal would end us and not the server
        for part in run(plan, say):
            rows += part
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print_table(report.served_table(rows), (), wide)
