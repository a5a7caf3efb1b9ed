"""Loading a model and its processor, with messages for people."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fastadasp.errors import ModelError, RunError
from fastadasp.files import UNFINISHED, is_file, parse_json, read_text
from fastadasp.inference.knows import Knowledge, knowledge_of

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, its processor, and where it came from.

    `spread` is the device of each part of a model that was loaded with a device map; None for others.

    Example::

        >>> loaded = fastadasp.load_model(model_folder)
        >>> loaded.model.config.model_type
        'qwen2_audio'
    """

    model: Any
    processor: Any
    path: str
    device: str
    dtype: str
    spread: dict[str, int | str] | None = None

    @property
    def sampling_rate(self) -> int:
        """Hz that the model's features are made from."""
        return int(self.processor.feature_extractor.sampling_rate)

    @property
    def longest_clip(self) -> float | None:
        """Seconds that fit into the encoder's window, if it has one."""
        length = getattr(self.processor.feature_extractor, "chunk_length", None)
        return None if length is None else float(length)

    @cached_property
    def knows(self) -> Knowledge:
        """What the model can be asked, where its folder says so. Raises ModelError for a file that cannot be used."""
        return knowledge_of(self.path)

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over the weights: the files of a local folder, else the tensors; for a model hub, its commit."""
        commit = getattr(self.model.config, "_commit_hash", None)
        return hash_weights(Path(self.path)) or commit or _hash_tensors(self.model)


def hash_weights(folder: Path) -> str | None:
    """SHA-256 over the weight files of a local model; None where there are none."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _hash_tensors(model: Any) -> str:
    import torch

    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def choose_device(device: str) -> str:
    """``auto``, ``cpu`` or ``cuda`` -> ``cpu`` or ``cuda``. Raises RunError where there is no such device."""
    import torch

    if device not in DEVICES:
        raise RunError(f"device is one of {', '.join(DEVICES)}, not {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise RunError("device 'cuda' was asked for, but this machine has no usable CUDA device; use cpu or auto")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def choose_dtype(dtype: str, device: str) -> str:
    """``auto`` is float32 on a CPU and bfloat16 on a GPU."""
    if dtype not in DTYPES:
        raise RunError(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
    return dtype if dtype != "auto" else "bfloat16" if device == "cuda" else "float32"


def check_map(device_map: str | None, device: str) -> None:
    """Refuses a ``device_map`` that cannot be. Raises RunError."""
    if device_map is None:
        return
    if device_map != "auto":
        raise RunError(f"device map is auto, not {device_map!r}")
    if device != "auto":
        raise RunError(f"device map {device_map} chooses devices by itself; leave out the device {device!r}")
    try:
        importlib.import_module("accelerate")
    except ImportError:
        raise RunError(
            f"device map {device_map} needs the package accelerate: pip install 'fastadasp[accelerate]'"
        ) from None


def check_folder(path: str) -> None:
    """Refuses a path that cannot be a model before anything heavy is imported. Hub ids pass."""
    if not path.strip():
        raise ModelError("the path of the model is empty; give a folder with config.json, or a hub id")
    folder = Path(path)
    if is_file(folder):
        raise ModelError(f"{path} is a file; a model is a folder with config.json, or a hub id")
    if not folder.is_dir():
        if path.count("/") == 1 and not path.startswith((".", "/", "~")):
            return
        raise ModelError(
            f"there is no model folder {path}; give a folder with config.json, or a hub id such as Qwen/Qwen2-Audio-7B"
        )
    config = folder / "config.json"
    if (folder / UNFINISHED).exists():
        raise ModelError(f"{path} is not whole: its conversion was cut off; run the same fastadasp convert again")
    if not config.is_file():
        raise ModelError(f"{path} is not a model: it has no config.json")
    try:
        content = parse_json(read_text(config))
        kind = content.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) else "" if isinstance(error, AttributeError) else str(error)
        raise ModelError(f"{config} is not a model configuration" + (f": {why}" if why else "")) from None
    from fastadasp.models.lookup import adapter_of_type

    if adapter_of_type(str(kind), path).audio_token is None:
        raise ModelError(f"{path} is a model of type {kind!r}, which has no audio tokens")


def model_type(path: str) -> str:
    """The ``model_type`` of a model folder or hub id: the name of its family. Raises ModelError."""
    check_folder(path)
    if (Path(path) / "config.json").is_file():
        return str(parse_json(read_text(Path(path) / "config.json")).get("model_type"))
    import transformers

    try:
        config, _ = transformers.PreTrainedConfig.get_config_dict(path, local_files_only=not _hub_answers(path))
    except OSError as error:
        raise ModelError(f"{path} cannot be loaded: {str(error).strip().splitlines()[0]}") from None
    return str(config.get("model_type"))


def load_model(
    path: str, device: str = "auto", dtype: str = "auto", *, device_map: str | None = None, outline: bool = False
) -> LoadedModel:
    """A model from a local folder (offline) or by hub id.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        dtype: ``auto`` (float32 on a CPU, bfloat16 on a GPU), ``float32``, ``bfloat16`` or ``float16``.
        device_map: ``auto`` spreads the model over all GPUs, and over the CPU's memory where they are too small, by the
            package accelerate; None for one device.
        outline: load no weights, for prompts and names alone; nothing can be computed then.

    Raises:
        ModelError: it cannot be found or read, or its family is not supported.
        RunError: device, dtype or device map cannot be had, or the model does not fit into the GPU's memory.

    Example::

        >>> fastadasp.load_model(model_folder, device="cpu").model.training
        False
    """
    check_folder(path)
    check_map(device_map, device)
    device = "cpu" if outline else choose_device(device)
    dtype = choose_dtype(dtype, device)

    import torch
    import transformers

    from fastadasp.models.lookup import adapter_for

    local = Path(path).is_dir() or not _hub_answers(path)
    own = _own_classes(path)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=local, trust_remote_code=False)
        name = (config.architectures or [None])[0]
        cls = getattr(transformers, str(name), None) or getattr(own, str(name), None)
        if name is None:
            raise ModelError(f"{path} cannot be loaded: its config.json names no architecture")
        if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
            raise ModelError(f"{path}: transformers {transformers.__version__} has no architecture {name!r}")
        if outline:
            with torch.device("meta"):
                model: Any = cls(config)
        else:
            mapped: dict[str, Any] = {} if device_map is None else {"device_map": device_map}
            model = cls.from_pretrained(
                path, dtype=dtype, local_files_only=local, use_safetensors=True, trust_remote_code=False, **mapped
            )
        processor = transformers.AutoProcessor.from_pretrained(path, local_files_only=local, trust_remote_code=False)
    except ModelError:
        raise
    except Exception as error:  # of transformers, tokenizers, safetensors, torch: a folder may hold anything
        if isinstance(error, OSError) and local and not Path(path).is_dir():
            raise ModelError(f"{path} cannot be loaded: the model hub cannot be reached and it is not cached") from None
        if "ignore_mismatched_sizes" in str(error):
            raise ModelError(f"{path} cannot be loaded: its weights have other shapes than its config.json") from None
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{path} cannot be loaded: {first}") from None
    adapter_for(model)
    if device_map is None and not outline:
        try:
            model = model.to(device)
        except torch.OutOfMemoryError:
            raise RunError(
                f"{path} does not fit into the GPU's memory in {dtype}; use a smaller model, --dtype bfloat16 or "
                "--device-map auto"
            ) from None
    if device_map is None:
        return LoadedModel(model.eval(), processor, path, device, dtype)
    found = getattr(model, "hf_device_map", None) or {"": model.device}  # it names none where there is one device alone
    spread = {part: place if isinstance(place, int) else str(place) for part, place in found.items()}
    return LoadedModel(model.eval(), processor, path, device, dtype, spread)


def _own_classes(path: str) -> Any:
    """The module of a family whose classes transformers does not have; None for others, and for models of a hub."""
    from fastadasp.registry.registry import get_registry

    config = Path(path) / "config.json"
    kind = parse_json(read_text(config)).get("model_type") if config.is_file() else None
    modules = [e.value.module for e in get_registry().entries("model") if e.name == kind and e.value.module]
    return importlib.import_module(modules[0]) if modules else None


def _hub_answers(path: str) -> bool:
    """Whether the model hub can be reached: one question, where transformers would retry for half a minute."""
    import huggingface_hub

    try:
        huggingface_hub.model_info(path, timeout=10)
    except huggingface_hub.errors.OfflineModeIsEnabled:
        return False
    except Exception as error:  # the HTTP library below changed between versions, and its errors with it
        return getattr(error, "response", None) is not None or isinstance(error, ValueError)
    return True
