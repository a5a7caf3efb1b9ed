"""Shortened audio in a file, for engines that take a clip's embeddings in the place of its sound."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastadasp.contracts.task import Example
from fastadasp.counts.shape import DecoderShape
from fastadasp.errors import DataError, StrategyError
from fastadasp.files import told, whole
from fastadasp.inference.clips import prepare
from fastadasp.inference.load import LoadedModel
from fastadasp.models.lookup import adapter_for
from fastadasp.strategy import Strategy

FORMAT = "fastadasp embeddings 1"
_ASKED = "Transcribe the speech into text."  # a prompt is needed to run the encoder, and changes nothing of its output


@dataclass(frozen=True)
class Embedded:
    """One clip of a file.

    Attributes:
        audio: the recording, as it was named.
        features: [M, D], what is left of it, in the order of time, as it enters the decoder.
        places: int64 [M], where each survivor stood among the clip's tokens, counted from 0.
        tokens: audio tokens before, N.
    """

    audio: str
    features: Tensor
    places: Tensor
    tokens: int


def embed(
    loaded: LoadedModel,
    strategy: Strategy | None,
    paths: Sequence[Path],
    *,
    batch_size: int = 8,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Embedded]:
    """Recordings as a model's decoder would receive them, shortened; None as strategy leaves them whole.

    Args:
        loaded: the model, whose encoder and projector run.
        strategy: a recipe that can act on features alone (`Strategy.why_not_on_features`).
        paths: recordings that fit into the model's window.
        batch_size: recordings at a time.
        progress: called with the number of recordings done.

    Raises:
        StrategyError: the recipe needs more than features.
        DataError: a recording cannot be used.
    """
    layers = DecoderShape.of(adapter_for(loaded.model).decoder(loaded.model).config).layers
    if strategy is not None and (fault := strategy.why_not_on_features(layers)):
        raise StrategyError(f"cannot be exported: {fault}")
    examples = [Example(str(path), path, _ASKED, "") for path in paths]
    ready = prepare(loaded, examples, batch_size, progress)
    clips = [ready[str(e.audio), e.instruction] for e in examples]
    whole = [clip.embeds[clip.span_ids > 0] for clip in clips]
    if strategy is None:
        short = [(features, torch.arange(len(features))) for features in whole]
    else:
        short = [(made.features, made.places) for made in strategy.reduce(whole, layers)]
    return [Embedded(str(path), *made, len(full)) for path, made, full in zip(paths, short, whole, strict=True)]


def write(file: Path, clips: Sequence[Embedded], about: dict[str, str]) -> None:
    """A safetensors file of clips, one behind the other.

    Tensors: ``features`` [sum of M, D], ``places`` int64 [sum of M], ``counts`` int64 [clips] (M of each) and
    ``tokens`` int64 [clips] (N of each). Metadata: ``format``, ``audio`` (a JSON list of names) and `about`.

    Raises:
        DataError: there is no clip.
        RunError: the file cannot be written.
    """
    if not clips:
        raise DataError("there is no recording to write")
    tensors = {
        "features": torch.cat([clip.features for clip in clips]),
        "places": torch.cat([clip.places for clip in clips]),
        "counts": torch.tensor([len(clip.features) for clip in clips]),
        "tokens": torch.tensor([clip.tokens for clip in clips]),
    }
    names = json.dumps([clip.audio for clip in clips])
    with told(file, "the file of embeddings"), whole(file) as part:
        save_file(tensors, part, metadata={"format": FORMAT, "audio": names} | about)


def read(file: Path) -> list[Embedded]:
    """The clips of a file that `write` made. Raises DataError for any other."""
    try:
        with safe_open(file, framework="pt") as kept:
            about = kept.metadata() or {}
            if about.get("format") != FORMAT:
                raise DataError(f"{file} holds no embeddings of fastadasp export-embeddings")
            features, places, counts, tokens = (kept.get_tensor(n) for n in ("features", "places", "counts", "tokens"))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None
    kept_counts = counts.tolist()
    rows = zip(features.split(kept_counts), places.split(kept_counts), tokens.tolist(), strict=True)
    return [Embedded(name, *row) for name, row in zip(json.loads(about["audio"]), rows, strict=True)]
