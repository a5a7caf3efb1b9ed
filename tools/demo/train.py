"""Makes the embedded model from data folders: ``python -m tools.demo.train --data DIR``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from fastadasp.errors import DataError
from tools.running import run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    data: Annotated[
        Path, typer.Option(help="folder with digits/, emotion/, orders/ and voices/, each with manifest.jsonl")
    ],
    encoder: Annotated[
        str, typer.Option(help="Whisper tiny.en: a transformers folder or a hub id")
    ] = "openai/whisper-tiny.en",
    out: Annotated[Path, typer.Option(help="folder for the model, the log and checkpoints")] = Path("demo-model"),
    steps: Annotated[int, typer.Option(min=1, help="training steps")] = 4000,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="stop after this long, with the learning rate at its end")
    ] = None,
    scale: Annotated[float, typer.Option(min=0.001, max=10, help="multiplies the size of the corpus")] = 1.0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="threads: each has a part of the batch")] = 2,
    seed: Annotated[int, typer.Option(help="of the corpus, the weights and the order")] = 0,
    compiled: Annotated[bool, typer.Option("--compile", help="compile the decoder; needs a C++ compiler")] = False,
    init: Annotated[
        Path | None, typer.Option(help="go on from the weights and the tokenizer of this model folder")
    ] = None,
    rate: Annotated[
        float, typer.Option(min=1e-6, max=0.1, help="learning rate after warm-up; 3e-4 fits --init")
    ] = 1e-3,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the last checkpoint in --out")] = False,
) -> None:
    """Train the embedded speech language model."""
    import math

    import torch
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from tools.demo import corpus
    from tools.demo.architecture import load_model, make_model, make_processor, make_tokenizer, save_model
    from tools.demo.features import FeatureMaker
    from tools.demo.learning import Plan, train
    from tools.demo.splits import load_recordings

    if not data.is_dir():
        raise DataError(f"--data {data} is not a folder")
    if device not in ("auto", "cpu", "cuda"):
        raise DataError(f"--device is auto, cpu or cuda, not {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise DataError("--device cuda: this machine has no usable CUDA device")
    where = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    if init is not None and not (init / "config.json").is_file():
        raise DataError(f"--init {init} is no model folder: it has no config.json")
    recordings = load_recordings(data)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    sizes = corpus.Sizes()
    if scale != 1.0:
        sizes = corpus.Sizes(**{name: max(1, round(count * scale)) for name, count in vars(sizes).items()})

    known = [
        answer for r in recordings if r.folder == "orders" for _, _, answer in corpus.order_questions(r.labels["slots"])
    ]
    if init is None:
        tokenizer = make_tokenizer(known + ["angry", "happy", "neutral", "sad", "female", "male"] * 20)
        processor = make_processor(tokenizer)
        model = make_model(encoder, tokenizer)
    else:
        model, processor = load_model(init)
        tokenizer = processor.tokenizer

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, TextColumn("{task.fields[note]}"), transient=False) as bar:
        cache = out / "corpus.pt"
        if resume and cache.is_file():
            stored = torch.load(cache, weights_only=True)
            clips = [corpus.Clip(*one) for one in stored]
        else:
            counting = bar.add_task("features", total=None, note=f"{len(recordings)} recordings")
            maker = FeatureMaker(model.model.audio_tower, processor.feature_extractor)
            parts = out / "features"
            if not resume:
                shutil.rmtree(parts, ignore_errors=True)
            parts.mkdir(exist_ok=True)

            def tell(n: int) -> None:
                bar.update(counting, completed=n, note=f"{n} clips")

            clips = corpus.build(recordings, maker, sizes, seed, workers, tell, parts)
            torch.save([(clip.features, clip.questions, clip.group) for clip in clips], cache)
            shutil.rmtree(parts)
            bar.update(counting, total=len(clips))
        model.to(where)
        state = None
        if resume and (out / "checkpoint.pt").is_file():
            state = torch.load(out / "checkpoint.pt", weights_only=True, map_location=where)
            model.load_state_dict(state.pop("model"))

        def save(progress_state: dict[str, object]) -> None:
            torch.save({**progress_state, "model": model.state_dict()}, out / "checkpoint.new")
            (out / "checkpoint.new").replace(out / "checkpoint.pt")
            save_model(out / "model", model, processor, model.state_dict())

        plan = Plan(
            steps=steps,
            minutes=math.inf if minutes is None else minutes,
            rate=rate,
            compile=compiled,
            workers=workers,
            seed=seed,
        )
        learning = bar.add_task("training", total=1.0, note="")
        train(
            model,
            tokenizer,
            clips,
            plan,
            out / "log.jsonl",
            save,
            lambda d, n: bar.update(learning, completed=d, note=n),
            state,
        )
        bar.update(learning, completed=1.0)
    print(f"model written to {out / 'model'}")


if __name__ == "__main__":
    run(app)
