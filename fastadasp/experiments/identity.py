"""What decides a cell's result, as plain values, and the hash over them: the cell's name in every store."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastadasp.errors import RunError
from fastadasp.experiments.about import PACKAGES
from fastadasp.experiments.records import FORMAT, TaskFacts
from fastadasp.files import hash_file
from fastadasp.recipes.reading import SECTIONS
from fastadasp.recipes.sources import part_sources, source_hash
from fastadasp.strategy import get_registry

if TYPE_CHECKING:
    from fastadasp.contracts.task import Example, Task
    from fastadasp.inference.load import LoadedModel
    from fastadasp.inference.runner import Runner
    from fastadasp.registry.checks import Kind
    from fastadasp.strategy import Strategy

CODE = (
    "*.py",
    *(f"experiments/{name}.py" for name in ("axes", "cell", "records", "starts", "statistics", "worker")),
    *(f"{room}/**/*.py" for room in ("contracts", "counts", "engine", "estimators", "inference", "kernels", "models")),
    *(f"{room}/**/*.py" for room in ("recipes", "registry", "selection", "tasks", "upstream")),
)
"""Sources of fastadasp that every cell runs through; a checkout changes without a new version."""

Values = dict[str, Any]


def cell_hash(identity: Mapping[str, Any]) -> str:
    """SHA-256 over an identity."""
    text = json.dumps(dict(identity), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def cell_identity(strategy: Strategy | None, task: str, facts: Mapping[str, Any]) -> Values:
    """Everything that decides the result of a cell.

    Args:
        strategy: None for the full model. Its name, summary and source decide nothing.
        facts: `common_facts`, with `task_facts` of each task under ``tasks``.
    """
    about = dict(facts["tasks"][task])
    calibration = about.pop("calibration")
    content: Values | None = None
    if strategy is not None:
        content = {k: v for k, v in strategy.to_dict().items() if k not in ("name", "summary", "source")}
        about["calibration"] = calibration if strategy.needs_calibration else None
    common = {key: value for key, value in facts.items() if key not in ("tasks", "layers")}
    return {**common, "task": about, "strategy": content, "components": _components(strategy)}


def common_facts(loaded: LoadedModel, batch_size: int, engine: Runner) -> Values:
    """What all cells of a study share, and the model's ``layers``, which decide nothing by themselves."""
    from fastadasp.experiments.cell import num_layers

    config: Any = loaded.model.config
    return {
        "format": FORMAT,
        "model": hash_model(loaded),
        "family": _origin("model", str(config.model_type)),
        "layers": num_layers(loaded),
        "device": loaded.device,
        "dtype": loaded.dtype,
        "batch_size": batch_size,
        **({} if loaded.spread is None else {"device_map": loaded.spread}),
        "kernels": os.environ.get("FASTADASP_KERNELS", "auto"),
        "versions": {name: _version(name) for name in PACKAGES},
        "code": hash_code(type(engine).__module__),
        "engine": engine.name,
    }


def task_facts(task: Task, examples: Iterable[Example], calibration: Iterable[Example]) -> Values:
    """What a task adds: how answers are asked for and scored, the clips, and those that start layers are chosen on."""
    kind = type(task)
    scored = {"choices": list(task.choices or ()), "groups": list(task.groups), "unit": task.unit}
    return {
        **{name: value for name, value in scored.items() if value},
        "metric": task.metric,
        "higher_is_better": task.higher_is_better,
        "max_new_tokens": task.max_new_tokens,
        "settings": task.settings,
        "class": f"{kind.__module__}.{kind.__qualname__} {source_hash(kind.__module__)}",
        "origin": _origin("task", task.name),
        "data": hash_examples(examples, (*task.groups, *([task.unit] if task.unit else []))),
        "calibration": hash_examples(calibration),
    }


def hash_model(loaded: LoadedModel) -> str:
    """SHA-256 over the weights and, for a local model, over its configuration, tokenizer and templates."""
    digest = hashlib.sha256(loaded.weights_hash.encode())
    folder = Path(loaded.path)
    if folder.is_dir():
        files = (p for p in folder.rglob("*") if p.suffix in (".json", ".jinja", ".txt", ".model") and p.is_file())
        for path in sorted(files):
            digest.update(f"\n{path.relative_to(folder).as_posix()} {hash_file(path)}".encode())
    return digest.hexdigest()


def hash_examples(examples: Iterable[Example], tags: Sequence[str] = ()) -> str:
    """SHA-256 over ids, recordings (their content), questions, answers and the tags of these names, in order."""
    digest = hashlib.sha256()
    for example in examples:
        row: list[str | None] = [example.id, hash_file(example.audio), example.instruction, example.reference]
        row += [example.tags.get(tag) for tag in tags]
        digest.update(json.dumps(row, ensure_ascii=False).encode())
    return digest.hexdigest()


def facts_of(task: Task, examples: Sequence[Example]) -> TaskFacts:
    """What decides whether figures of a task may be compared, for the files of a run. Raises DataError."""
    data, questions = hashlib.sha256(), hashlib.sha256()
    for example in examples:
        row = (example.id, hash_file(example.audio), example.reference)
        data.update(json.dumps(row, ensure_ascii=False).encode())
        questions.update(json.dumps(example.instruction, ensure_ascii=False).encode())
    return TaskFacts(
        metric=task.metric,
        higher_is_better=task.higher_is_better,
        settings={name: value for name, value in task.settings.items() if value},
        data=data.hexdigest(),
        questions=questions.hexdigest(),
        revision=task.revision or None,
    )


def sources(engine: str) -> list[Path]:
    """The files of fastadasp that a cell runs through, where the class of its engine is of this module.

    The room of the engine counts as a whole, e.g. ``serving``, some of which vLLM loads by name. No other engine's cell
    runs through it.
    """
    root = Path(__file__).parents[1]
    package, _, inside = engine.partition(".")
    own = [f"{inside.split('.')[0]}/**/*.py"] if package == root.name else []
    return sorted({path for pattern in (*CODE, *own) for path in root.glob(pattern)})


@cache
def hash_code(engine: str) -> str:
    """SHA-256 over `sources`, or with an engine of another package over its module, too."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sources(engine):
        digest.update(f"{path.relative_to(root).as_posix()} {hash_file(path)}\n".encode())
    if engine.partition(".")[0] != root.name:
        digest.update(source_hash(engine).encode())
    return digest.hexdigest()


def _components(strategy: Strategy | None) -> Values | None:
    """Where the parts come from: distribution, version, module and the module's source."""
    if strategy is None:
        return None
    parts = {
        part: f"{source} {_origin(SECTIONS[part], getattr(strategy, part).name)}"
        for part, source in part_sources(strategy).items()
    }
    return {**parts, "then": _components(strategy.then)}


def _origin(kind: Kind, name: str) -> str:
    found = next((e.origin for e in get_registry().entries(kind) if e.name == name), None)
    if found is None:
        return "not installed"
    return f"{found.distribution} {found.version} {found.module} {source_hash(found.module)}"


@cache
def _version(name: str) -> str:
    """A version without what follows a plus sign (the kind of build, which `device` tells)."""
    try:
        return version(name).split("+")[0]
    except PackageNotFoundError:
        raise RunError(f"package {name} is not installed properly: its version cannot be told") from None


def origins_of(strategies: Iterable[Strategy]) -> dict[str, str]:
    """Which package and module each component of these strategies comes from."""
    origins = {f"{entry.kind} {entry.name}": entry.origin for entry in get_registry().entries()}
    out = {}
    for strategy in strategies:
        for part, kind in SECTIONS.items():
            component = getattr(strategy, part)
            label = "" if component is None else f"{kind} {component.name}"
            if label in origins:
                origin = origins[label]
                out[label] = f"{origin.distribution} {origin.version} ({origin.module})"
    return out
