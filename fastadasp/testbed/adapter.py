"""The trained part: a projector and a LoRA of the decoder in one file, and how they go into a model.

Names are ``projector.*`` and ``lora.layers.N.MODULE.A`` [rank, in], ``.B`` [out, rank]; a projection W becomes
W + scale * B A (Hu et al., LoRA, ICLR 2022), with `scale` in the file's metadata.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastadasp.errors import ModelError

PROJECTOR = "projector."
LORA = "lora."
_HALF = re.compile(rf"{re.escape(LORA)}.*\.[AB]$")


@dataclass(frozen=True)
class Adapter:
    """Weights by name, and what the file says of them.

    Attributes:
        weights: as they are stored, mostly bfloat16.
        about: the file's metadata: ``scale`` of the LoRA, ``encoder`` and ``decoder`` it was trained with.

    Raises:
        ModelError: half of a LoRA is missing, its halves do not fit together, or its scale is no number.
    """

    weights: dict[str, Tensor]
    about: dict[str, str]

    def __post_init__(self) -> None:
        for name in self.loras():
            halves = [self.weights.get(f"{name}.{half}") for half in "AB"]
            path = name.removeprefix(LORA)
            for half, weight in zip("AB", halves, strict=True):
                if weight is None:
                    raise ModelError(f"this adapter's LoRA for {path} has no {half}")
            down, up = (list(weight.shape) for weight in halves if weight is not None)
            if len(down) != 2 or len(up) != 2 or down[0] != up[1]:
                raise ModelError(f"this adapter's LoRA for {path} has A of {down} and B of {up}, which do not fit")
        try:
            known = isfinite(self.scale)
        except ValueError:
            known = False
        if not known:
            raise ModelError(f"this adapter's scale is a number, not {self.about['scale']!r}")

    @property
    def scale(self) -> float:
        return float(self.about.get("scale", 1.0))

    def loras(self) -> list[str]:
        """Names of the LoRA's modules, each with halves A and B."""
        return sorted({name.removesuffix(name[-2:]) for name in self.weights if _HALF.match(name)})

    def projector(self) -> dict[str, Tensor]:
        """Weights of the projector under its own names, float32."""
        return {n.removeprefix(PROJECTOR): w.float() for n, w in self.weights.items() if n.startswith(PROJECTOR)}

    def apply(self, decoder: nn.Module, projector: nn.Module) -> None:
        """Loads the projector and adds the LoRA to the decoder's weights, in place.

        Args:
            decoder: with ``layers``, float32.
            projector: of the same widths.

        Raises:
            ModelError: the adapter belongs to a model of another shape.
        """
        try:
            projector.load_state_dict(self.projector())
        except RuntimeError as error:
            raise ModelError(f"this adapter's projector does not fit: {str(error).splitlines()[-1].strip()}") from None
        for name in self.loras():
            self._add(decoder, name)

    def _add(self, decoder: nn.Module, name: str) -> None:
        path = name.removeprefix(LORA)
        change = self.weights[f"{name}.B"].float() @ self.weights[f"{name}.A"].float() * self.scale
        try:
            weight = decoder.get_submodule(path).weight
        except AttributeError:
            raise ModelError(f"this adapter has a LoRA for {path}, which the decoder does not have") from None
        assert isinstance(weight, Tensor)
        if weight.shape != change.shape:
            raise ModelError(
                f"this adapter's LoRA for {path} is {list(change.shape)}, but the decoder has {list(weight.shape)}"
            )
        weight.data += change.to(weight.dtype)


def read_adapter(path: Path) -> Adapter:
    """An adapter from its file.

    Raises:
        ModelError: there is no such file, or it is none.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError(f"there is no adapter {path}; give a file adapter.safetensors")
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            return Adapter({name: file.get_tensor(name) for name in names}, file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is no adapter: {error}") from None


def write_adapter(path: Path, weights: dict[str, Tensor], **about: Any) -> None:
    """Weights in bfloat16, with what is to be known of them."""
    import torch
    from safetensors.torch import save_file

    rows = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in weights.items()}
    save_file(rows, path, metadata={n: v if isinstance(v, str) else json.dumps(v) for n, v in about.items()})
