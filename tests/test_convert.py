"""Conversion in general: nothing lost, nothing left over, cut off and gone on, and messages for people."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import original_qwen_audio as original
import pytest
import torch
import transformers
from command import run
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastadasp.convert import qwen_audio, writer
from fastadasp.convert.kinds import KINDS, convert
from fastadasp.convert.plan import Target
from fastadasp.errors import ModelError, RunError
from fastadasp.inference.load import check_folder

LIMIT = 40_000
"""Bytes of a file in these tests: some twenty files."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("convert") / "source"
    original.write(folder)
    return folder


@pytest.fixture
def copy(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "source"))


def tensors(folder: Path) -> dict[str, Tensor]:
    held: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        held |= load_file(path)
    return held


def command(*arguments: str) -> tuple[int, str]:
    return run("convert", *arguments)


def test_files_are_bounded_and_hold_every_tensor_once(source: Path, tmp_path: Path) -> None:
    writer.write(qwen_audio.prepare(source), tmp_path / "small", limit=LIMIT)
    convert("qwen-audio", source, tmp_path / "whole")
    small, whole = tensors(tmp_path / "small"), tensors(tmp_path / "whole")
    assert small.keys() == whole.keys()
    assert all(torch.equal(small[name], whole[name]) for name in small)
    index = json.loads((tmp_path / "small" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == small.keys()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in small.values())
    for path in (tmp_path / "small").glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            sizes = [file.get_tensor(name).nbytes for name in file.keys()]  # noqa: SIM118
        assert sum(sizes) <= LIMIT or len(sizes) == 1
    assert not list((tmp_path / "small").glob("*.part"))
    assert not (tmp_path / "small" / writer.STATE).exists()


def test_memory_holds_one_file_at_a_time(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts the bytes of all tensors that are read or made and still alive."""
    alive, most = [0], [0]

    def count(tensor: Tensor) -> Tensor:
        size = tensor.nbytes
        alive[0] += size
        most[0] = max(most[0], alive[0])
        weakref.finalize(tensor, lambda: alive.__setitem__(0, alive[0] - size))
        return tensor

    conversion = qwen_audio.prepare(source)
    read, build = conversion.source.read, Target.build
    monkeypatch.setattr(conversion.source, "read", lambda name: count(read(name)))
    monkeypatch.setattr(
        Target, "build", lambda self, parts: made if (made := build(self, parts)).is_meta else count(made.clone())
    )
    writer.write(conversion, tmp_path / "model", limit=LIMIT)
    largest = max(conversion.bytes_of(target) for target in conversion.targets)
    whole = sum(conversion.bytes_of(target) for target in conversion.targets)
    assert most[0] <= LIMIT + 2 * largest < whole + LIMIT


def test_cut_off_and_called_again_it_goes_on(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert("qwen-audio", source, tmp_path / "whole")
    write, folder = writer._write_shard, tmp_path / "model"
    made: list[str] = []

    def interrupted(conversion: Any, shard: Any, path: Path) -> None:
        if len(made) == 4:
            path.with_name(path.name + ".part").write_bytes(b"half")
            raise KeyboardInterrupt
        made.append(path.name)
        write(conversion, shard, path)

    monkeypatch.setattr(writer, "_write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.write(qwen_audio.prepare(source), folder, limit=LIMIT)
    assert not (folder / "config.json").exists()  # nobody takes it for a model
    (folder / made[1]).write_bytes(b"damaged" + (folder / made[1]).read_bytes()[7:])
    (folder / made[2]).unlink()
    again: list[str] = []
    monkeypatch.setattr(writer, "_write_shard", lambda c, s, p: (again.append(p.name), write(c, s, p)))
    writer.write(qwen_audio.prepare(source), folder, limit=LIMIT)
    assert set(made) & set(again) == {made[1], made[2]}
    first, second = tensors(folder), tensors(tmp_path / "whole")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not list(folder.glob("*.part"))


def test_killed_for_good_it_goes_on_too(source: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from fastadasp.convert import qwen_audio, writer\n"
        "def slow(done, total): print(done, flush=True); time.sleep(0.05)\n"
        f"writer.write(qwen_audio.prepare(Path(sys.argv[1])), Path(sys.argv[2]), limit={LIMIT}, progress=slow)"
    )
    words = [sys.executable, "-c", code, str(source), str(tmp_path / "model")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(4):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {p.name: p.stat().st_mtime_ns for p in sorted((tmp_path / "model").glob("*.safetensors"))[:3]}
    writer.write(qwen_audio.prepare(source), tmp_path / "model", limit=LIMIT)
    assert {name: (tmp_path / "model" / name).stat().st_mtime_ns for name in kept} == kept
    assert len(kept) == 3
    assert (tmp_path / "model" / "config.json").exists()


def test_an_unfinished_folder_of_another_checkpoint_is_refused(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / writer.STATE).write_text('{"conversion": {"kind": "qwen-audio"}, "done": {}}')
    with pytest.raises(RunError, match="unfinished conversion of another checkpoint"):
        convert("qwen-audio", copy, tmp_path / "model")


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, shard: int, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Rewrites a shard and its part of the index."""
    path = sorted(folder.glob("*.safetensors"))[shard]
    held = load_file(path)
    change(held)
    save_file(held, path)
    index = folder / "model.safetensors.index.json"
    placed = {n: f for n, f in json.loads(index.read_text())["weight_map"].items() if f != path.name}
    change_json(index, weight_map=placed | dict.fromkeys(held, path.name))


W1 = "transformer.h.0.mlp.w1.weight"
WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "other model": (lambda f: change_json(f / "config.json", model_type="qwen2"), "found model_type 'qwen2'"),
    "size": (lambda f: change_json(f / "config.json", hidden_size="4096"), "hidden_size is '4096'; expected a whole"),
    "biases": (lambda f: change_json(f / "config.json", no_bias=False), "no_bias is false"),
    "format": (
        lambda f: change_json(f / "generation_config.json", chat_format="x"),
        "chat_format is 'x'; known: chatml",
    ),
    "no vocabulary": (lambda f: (f / "qwen.tiktoken").unlink(), "lacks qwen.tiktoken"),
    "vocabulary": (lambda f: (f / "qwen.tiktoken").write_text("IQ== x"), "qwen.tiktoken, line 1: expected a token"),
    "other vocabulary": (
        lambda f: (f / "qwen.tiktoken").write_text(original.vocabulary() + "enp6eg== 300\n"),
        "config.json puts <audio> at id 3820 of 3840, but qwen.tiktoken puts it at 3821",
    ),
    "no weights": (lambda f: (f / "model.safetensors.index.json").unlink(), "holds no weights; expected model.safet"),
    "missing shard": (lambda f: (f / "model-00002-of-00003.safetensors").unlink(), "lacks the shard model-00002-of"),
    "damaged shard": (
        lambda f: os.truncate(f / "model-00002-of-00003.safetensors", 1000),
        "cannot be read as safetensors",
    ),
    "damaged index": (lambda f: (f / "model.safetensors.index.json").write_text("{"), "cannot be read as JSON"),
    "missing tensor": (lambda f: change_weights(f, 0, lambda w: w.pop(W1)), f"it lacks {W1}"),
    "unused tensor": (
        lambda f: change_weights(f, 2, lambda w: w.update(extra=torch.zeros(1))),
        "has no place for: extra",
    ),
    "shape": (
        lambda f: change_weights(f, 0, lambda w: w.update({W1: torch.zeros(47, 32)})),
        f"{W1} has shape [47, 32], but the configuration makes it [48, 32]",
    ),
}


def change_audio(folder: Path, **changes: Any) -> None:
    audio = json.loads((folder / "config.json").read_text())["audio"]
    change_json(folder / "config.json", audio=audio | changes)


def put_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


INDEX = "model.safetensors.index.json"
WRONG |= {
    "layers": (
        lambda f: change_json(f / "config.json", num_hidden_layers=10**6),
        "num_hidden_layers is 1000000, but the weights are of 3 layers",
    ),
    "many layers": (lambda f: change_json(f / "config.json", num_hidden_layers=10**30), "at most 16777216"),
    "audio layers": (lambda f: change_audio(f, n_layer=10**5), "audio.n_layer is 100000, but the weights are of 2"),
    "huge size": (lambda f: change_json(f / "config.json", vocab_size=10**30), "vocab_size is 1000000000"),
    "heads": (lambda f: change_audio(f, n_head=3), "the sizes do not fit together"),
    "length": (lambda f: change_json(f / "config.json", seq_length=-1), "seq_length is -1; expected a whole number"),
    "base": (
        lambda f: change_json(f / "config.json", rotary_emb_base="x"),
        "rotary_emb_base is 'x'; expected a number",
    ),
    "base below 0": (lambda f: change_json(f / "config.json", rotary_emb_base=-5), "expected a number above 0"),
    "epsilon": (lambda f: change_json(f / "config.json", layer_norm_epsilon=None), "layer_norm_epsilon is None"),
    "odd": (lambda f: change_json(f / "config.json", intermediate_size=97), "intermediate_size is 97, which is odd"),
    "channels": (lambda f: change_json(f / "config.json", kv_channels=None), "kv_channels is None"),
    "nested": (lambda f: (f / "config.json").write_text("[" * 60_000), "not usable JSON (nested too deep)"),
    "digits": (lambda f: (f / "config.json").write_text('{"a": ' + "9" * 6000 + "}"), "a number with too many digits"),
    "a pipe": (lambda f: put_pipe(f / "generation_config.json"), "no ordinary file, but a pipe"),
    "a pipe of weights": (lambda f: put_pipe(f / "model-00002-of-00003.safetensors"), "lacks the shard"),
    "formats": (lambda f: change_json(f / "generation_config.json", chat_format=[]), "chat_format is []; known"),
    "tokens": (
        lambda f: change_json(f / "generation_config.json", max_new_tokens=-5),
        "max_new_tokens is -5; expected a whole number of at least 1",
    ),
    "top_p": (
        lambda f: change_json(f / "generation_config.json", top_p=7),
        "top_p is 7; expected a number from 0 to 1",
    ),
    "sampling": (lambda f: change_json(f / "generation_config.json", do_sample="yes"), "do_sample is 'yes'"),
    "a list for a map": (lambda f: change_json(f / INDEX, weight_map=[]), "has no weight_map"),
    "numbers for files": (lambda f: change_json(f / INDEX, weight_map={"a": 5}), "lacks the shard 5"),
    "files outside": (lambda f: change_json(f / INDEX, weight_map={"a": "../x"}), "which is not in the folder"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_checkpoints_are_refused_before_anything_is_written(fault: str, copy: Path, tmp_path: Path) -> None:
    change, message = WRONG[fault]
    change(copy)
    code, told = command("qwen-audio", str(copy), str(tmp_path / "model"))
    assert code == 2
    assert message in told
    assert "Traceback" not in told
    assert not (tmp_path / "model").exists()


def test_buffers_that_the_original_saved_are_left_out(copy: Path, tmp_path: Path) -> None:
    change_weights(copy, 2, lambda w: w.update({"transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}))
    convert("qwen-audio", copy, tmp_path / "model")
    assert (tmp_path / "model" / "config.json").exists()


def test_wrong_arguments(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, full, file = str(source), tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    file.write_text("")
    for arguments, message in (
        (("qwen_audio", there, "x"), "unknown checkpoint layout 'qwen_audio'. Did you mean 'qwen-audio'?"),
        (("qwen-audio", "nowhere", "x"), "there is no checkpoint nowhere; expected a folder of Qwen/Qwen-Audio"),
        (("qwen-audio", str(file), "x"), f"{file} is a file; expected a folder of Qwen/Qwen-Audio"),
        (("qwen-audio", there, str(full)), f"{full} is not empty"),
        (("qwen-audio", there, str(file)), f"{file} is a file; give a folder"),
        (("qwen-audio", there, str(file / "x")), f"{file / 'x'} cannot be written: Not a directory"),
        (("qwen-audio", there, str(source / "model")), f"the result cannot go into {source} itself"),
    ):
        code, told = command(*arguments)
        assert (code, message in told, "Traceback" in told) == (2, True, False), told
    assert (full / "mine.txt").read_text() == "mine"

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 10))
    code, told = command("qwen-audio", there, str(tmp_path / "small"))
    assert code == 2
    assert "needs 0.0 GB more, but its disk has 0.0 GB free" in told


def test_a_full_disk_and_an_interrupt_are_explained(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: BaseException) -> Callable[..., None]:
        def raising(*_: Any, **__: Any) -> None:
            raise error

        return raising

    monkeypatch.setattr(writer, "save_file", fail(OSError(28, "No space left on device")))
    code, told = command("qwen-audio", str(source), str(tmp_path / "model"))
    assert code == 2
    assert "cannot be written: No space left on device; free some space and run the same command again" in told
    monkeypatch.setattr(writer, "save_file", fail(KeyboardInterrupt()))
    code, told = command("qwen-audio", str(source), str(tmp_path / "model"))
    assert code == 130
    assert "Run the same command again to go on" in told
    monkeypatch.undo()
    assert command("qwen-audio", str(source), str(tmp_path / "model"))[0] == 0


class Harm:
    """Pickled, it would create a file when read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("done", [5, [], "ab", {"model-00001-of-00001.safetensors": {"size": "x"}}, None])
def test_a_damaged_note_of_what_is_finished_counts_as_nothing(done: Any, copy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    assert run("convert", "qwen-audio", str(copy), str(tmp_path / "whole")) == (0, "")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.write(qwen_audio.prepare(copy), folder, progress=stop)
    change_json(folder / writer.STATE, done=done)
    with pytest.raises(ModelError, match="its conversion was cut off; run the same fastadasp convert again"):
        check_folder(str(folder))
    assert command("qwen-audio", str(copy), str(folder)) == (0, "")
    assert (folder / "config.json").read_bytes() == (tmp_path / "whole" / "config.json").read_bytes()
    check_folder(str(folder))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / writer.STATE).write_text("[" * 50_000)
    code, told = command("qwen-audio", str(copy), str(tmp_path / "other"))
    assert (code, "not usable JSON" in told) == (2, True)


def test_a_disk_that_fills_up_while_the_tokenizer_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library that saves it raises a plain Exception."""
    folder = tmp_path / "model"

    def full(*_: Any, **__: Any) -> None:
        raise Exception("No space left on device (os error 28)")

    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "save_pretrained", full)
    code, told = command("qwen-audio", str(source), str(folder))
    assert code == 2
    assert "cannot be written: No space left on device (os error 28); free some space and run the same" in told
    assert not (folder / "config.json").exists()
    monkeypatch.undo()
    assert command("qwen-audio", str(source), str(folder))[0] == 0


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    original.write(tmp_path / "source", form="bin", shards=1)
    shard, trace = tmp_path / "source" / "pytorch_model-00001-of-00001.bin", tmp_path / "trace"
    torch.save(torch.load(shard, weights_only=True) | {"x": Harm(trace)}, shard)
    with pytest.raises(ModelError, match="objects other than tensors and plain values"):
        convert("qwen-audio", tmp_path / "source", tmp_path / "model")
    assert not trace.exists()


def test_every_kind_is_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "convert.md").read_text(encoding="utf-8")
    for kind in KINDS:
        assert f"\n## `{kind}`" in page
        assert f"fastadasp convert {kind} " in page
