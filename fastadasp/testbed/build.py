"""Puts the parts together and writes an ordinary model folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastadasp.errors import ModelError, RunError
from fastadasp.files import told
from fastadasp.testbed import prompts
from fastadasp.testbed.adapter import Adapter, read_adapter
from fastadasp.testbed.shape import RENAMED, configuration, new_model

ENCODER = "openai/whisper-base"
DECODER = "HuggingFaceTB/SmolLM2-135M-Instruct"
HERE = Path(__file__).parent


def build(folder: str | Path, *, adapter: str | Path, encoder: str = ENCODER, decoder: str = DECODER) -> Path:
    """Writes the test bed as a model folder, which every command takes as ``--model FOLDER``.

    Args:
        folder: to be made, or empty.
        adapter: file with projector and LoRA, made by ``tools/testbed``; no trained one comes with the package.
        encoder: hub id or folder of a Whisper checkpoint; its decoder is not used.
        decoder: hub id or folder of a causal language model with its tokenizer.

    Returns:
        The folder. Weights in it are float32, about 620 MB for the parts named above.

    Raises:
        ModelError: a part cannot be loaded, the parts do not fit together, or transformers lacks the family.
        RunError: the folder is not empty, or cannot be written.
    """
    folder = Path(folder)
    with _fresh(folder):
        trained = read_adapter(Path(adapter))
        tokenizer = _tokenizer(decoder)
        whisper = _part("encoder", encoder, "WhisperForConditionalGeneration")
        text = _part("decoder", decoder, "AutoModelForCausalLM")
        model = assemble(whisper, text, trained, tokenizer)
        with told(folder, "the test bed's folder"):
            model.save_pretrained(folder)
            _processor(tokenizer, whisper.config.num_mel_bins).save_pretrained(folder)
            (folder / "knows.json").write_text(json.dumps(_knows(), indent=2) + "\n", encoding="utf-8")
            _note(folder, encoder, decoder)
    return folder


@contextmanager
def _fresh(folder: Path) -> Iterator[None]:
    """An empty folder inside; if something goes wrong there, what was made is removed, and nothing else."""
    with told(folder, "the test bed's folder"):
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise RunError(f"{folder} is not empty; give a folder that is empty or does not exist yet")
        made = next((path for path in (*reversed(folder.parents), folder) if not path.exists()), None)
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in [made] if made else list(folder.iterdir()):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise


def assemble(whisper: Any, text: Any, trained: Adapter, tokenizer: Any) -> Any:
    """The model from its loaded parts; `tokenizer` already knows the audio tokens.

    Raises:
        ModelError: they do not fit together.
    """
    import torch

    ids: dict[str, Any] = {name: tokenizer.convert_tokens_to_ids(name) for name in RENAMED.values()}
    model = new_model(configuration(whisper.config, text.config, ids["<|AUDIO|>"])).float().eval()
    with torch.no_grad():
        model.model.audio_tower.load_state_dict(whisper.model.encoder.state_dict())
        model.model.language_model.load_state_dict(text.model.state_dict())
        model.lm_head.load_state_dict(text.lm_head.state_dict())
        model.tie_weights()
        trained.apply(model.model.language_model, model.model.multi_modal_projector)
    end = tokenizer.convert_tokens_to_ids(prompts.END)
    model.generation_config.update(
        eos_token_id=end, pad_token_id=end, bos_token_id=text.config.bos_token_id, do_sample=False, max_new_tokens=200
    )
    return model


def _part(what: str, name: str, cls: str) -> Any:
    import transformers

    try:
        return getattr(transformers, cls).from_pretrained(name, dtype="float32", trust_remote_code=False).eval()
    except (OSError, ValueError) as error:
        raise _missing(what, name, error) from None


def _missing(what: str, name: str, error: Exception) -> ModelError:
    if Path(name).is_dir():
        return ModelError(f"the {what} {name} cannot be loaded: {str(error).splitlines()[0]}")
    return ModelError(
        f"the {what} {name} is neither a folder nor to be had from the hub; download it where the hub is reachable and "
        f"name its folder with --{what}"
    )


def _tokenizer(name: str) -> Any:
    """The decoder's tokenizer, with three of its special tokens under the names of audio."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        given = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _missing("decoder", name, error) from None
    vocabulary = given.get_vocab()
    lacking = [token for token in (*RENAMED, prompts.END) if token not in vocabulary]
    if lacking:
        raise ModelError(f"the decoder {name} has no special token {lacking[0]}; it needs SmolLM2's tokenizer")
    from tokenizers import Tokenizer

    content = json.loads(given.backend_tokenizer.to_str())
    content["model"]["vocab"] = {RENAMED.get(token, token): i for token, i in content["model"]["vocab"].items()}
    for token in content["added_tokens"]:
        token["content"] = RENAMED.get(token["content"], token["content"])
    end = prompts.END
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        eos_token=end,
        pad_token=end,
        bos_token=given.bos_token,
        additional_special_tokens=list(RENAMED.values()),
        padding_side="left",
        model_max_length=given.model_max_length,
    )


def _processor(tokenizer: Any, mel_bins: int) -> Any:
    from transformers import MossTranscribeDiarizeFeatureExtractor, MossTranscribeDiarizeProcessor

    return MossTranscribeDiarizeProcessor(
        MossTranscribeDiarizeFeatureExtractor(feature_size=mel_bins),
        tokenizer,
        chat_template=prompts.CHAT_TEMPLATE,
        audio_token="<|AUDIO|>",
        audio_bos_token="<|audio_bos|>",
        audio_eos_token="<|audio_eos|>",
        time_marker_every_seconds=0,
    )


def _knows() -> dict[str, object]:
    tasks = {
        name: {"about": about, "instructions": list(prompts.INSTRUCTIONS[name]), "words": []}
        for name, about in prompts.ABOUT.items()
    }
    return {"tasks": tasks}


def _note(folder: Path, encoder: str, decoder: str) -> None:
    """The model card goes along, with the parts that this folder was made of."""
    card = (HERE / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(f"{card}\nThis folder was made of {encoder} and {decoder}.\n", encoding="utf-8")
