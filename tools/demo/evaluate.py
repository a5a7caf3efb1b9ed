"""Accuracy of the embedded model on its packaged test set: ``python -m tools.demo.evaluate``.

The plain model: transformers' own classes, no shortening.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from fastadasp.demo import data_path, model_path, prompts
from fastadasp.demo.rows import instruction, read_rows
from fastadasp.errors import DataError, FastAdaSPError, ModelError

METRICS = {"asr": "wer", "st": "bleu", "sqa": "accuracy", "er": "accuracy", "gender": "accuracy"}
"""Each task's headline metric: word error rate and accuracy in percent, BLEU in points."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Score:
    """One row of the report. `speakers` is all, seen or unseen; `value` is the task's headline metric."""

    task: str
    speakers: str
    clips: int
    metric: str
    value: float


def answer(
    model: Any,
    processor: Any,
    rows: list[dict[str, Any]],
    data: Path,
    batch: int = 8,
    progress: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """The model's answers to manifest lines, greedy, in left-padded batches of clips of similar length."""
    import torch

    from fastadasp.audio import read_audio

    rate = processor.feature_extractor.sampling_rate
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["task"] in ("asr", "st"), rows[i]["duration"]))
    answers = [""] * len(rows)
    for begin in range(0, len(order), batch):
        chosen = order[begin : begin + batch]
        inputs = processor(
            text=[prompts.build_prompt(instruction(rows[i])) for i in chosen],
            audio=[read_audio(data / rows[i]["audio_filepath"], rate) for i in chosen],
            sampling_rate=rate,
            padding=True,
            return_tensors="pt",
        ).to(model.device)
        with torch.inference_mode():
            tokens = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
        for index, text in zip(chosen, processor.batch_decode(tokens, skip_special_tokens=True), strict=True):
            answers[index] = text.strip()
        progress(begin + len(chosen))
    return answers


def score(rows: list[dict[str, Any]], answers: list[str]) -> list[Score]:
    """Each task's metric over all clips, and apart for seen and unseen speakers where a task has both."""
    from fastadasp.tasks.metrics import accuracy, bleu, word_error_rate

    measure = {"wer": word_error_rate, "bleu": bleu, "accuracy": accuracy}
    out = []
    for task in dict.fromkeys(row["task"] for row in rows):
        pairs = [(row, text) for row, text in zip(rows, answers, strict=True) if row["task"] == task]
        both = len({row["seen_speaker"] for row, _ in pairs}) > 1
        for speakers, wanted in (("all", None), ("seen", True), ("unseen", False)):
            if wanted is not None and not both:
                continue
            part = [(row, text) for row, text in pairs if wanted is None or row["seen_speaker"] == wanted]
            value = measure[METRICS[task]]([text for _, text in part], [row["reference"] for row, _ in part])
            out.append(Score(task, speakers, len(part), METRICS[task], value[METRICS[task]]))
    return out


@app.command()
def main(
    model: Annotated[Path | None, typer.Option(help="model folder; default: the embedded model")] = None,
    data: Annotated[Path | None, typer.Option(help="test set folder; default: the packaged test set")] = None,
    tasks: Annotated[str, typer.Option(help="names of tasks, comma-separated")] = ",".join(METRICS),
    limit: Annotated[int | None, typer.Option(min=1, help="clips of each task; default: all")] = None,
    batch: Annotated[int, typer.Option(min=1, help="clips at a time")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    show: Annotated[bool, typer.Option("--show", help="print the wrong answers")] = False,
) -> None:
    """Measure the embedded model on its test set, for speakers seen in training and for others."""
    asked = [task.strip() for task in tasks.split(",") if task.strip()]
    for task in asked:
        if task not in METRICS:
            raise DataError(f"--tasks: there is no task {task!r}; tasks are {', '.join(METRICS)}")
    folder, data = model or model_path(), data or data_path()
    if not (folder / "config.json").is_file():
        raise ModelError(f"there is no model in {folder}: it has no config.json")
    rows = read_rows(data, asked, limit)
    if not rows:
        raise DataError(f"{data} has no clips for {', '.join(asked) or 'no task'}")

    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table
    from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

    from fastadasp.inference.load import choose_device

    where = choose_device(device)
    network = Qwen2AudioForConditionalGeneration.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    network = network.eval().to(where)
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    began = time.monotonic()
    with Progress(console=Console(stderr=True), transient=True) as bar:
        job = bar.add_task("answering", total=len(rows))
        answers = answer(network, processor, rows, data, batch, lambda done: bar.update(job, completed=done))
    table = Table("task", "speakers", "clips", "metric", "value")
    for line in score(rows, answers):
        table.add_row(line.task, line.speakers, str(line.clips), line.metric, f"{line.value:.1f}")
    console = Console()
    console.print(table)
    console.print(f"{len(rows)} questions in {time.monotonic() - began:.0f} s on {where}")
    if show:
        for row, text in zip(rows, answers, strict=True):
            if text != row["reference"]:
                print(f"{row['id']} ({row['speaker']}): {row['reference']!r} -> {text!r}")


if __name__ == "__main__":
    try:
        app()
    except FastAdaSPError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
