"""`fastadasp serve` over loopback: the same text as transformers with the strategy, counts over HTTP, a clean end."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from inside import MARKS, QUIET, results

from fastadasp.audio import read_audio
from fastadasp.bench.served import Plan, measured, recordings
from fastadasp.counts.budget import Budget
from fastadasp.demo import data_path, model_path
from fastadasp.demo.prompts import build_prompt
from fastadasp.demo.rows import read_rows
from fastadasp.strategy import load_strategy

SETTING = {"strategy": "affinity-pooling", "budget": 0.5, "positions": "original"}
TEXT = "Transcribe the speech into text."
NEW = 48

pytestmark = MARKS


def living() -> dict[int, int]:
    """The parents of all living processes, from /proc; the dead that nobody waited for do not count."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            parents[int(stat.parent.name)] = int(parent)
    return parents


def descendants(pid: int) -> set[int]:
    """All living processes below one."""
    parents = living()
    found: set[int] = set()
    new = {pid}
    while new := {child for child, parent in parents.items() if parent in new} - found:
        found |= new
    return found


class Server:
    """A server that was started by the command line."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = ["--strategy", SETTING["strategy"], "--budget", "0.5", "--positions", "original", "--port", str(port)]
        options += ["--max-model-len", "1024", "--enforce-eager", "--dtype", "float32", "--trust-request-mm-kwargs"]
        self.port = port
        self.url, self.log, self.out = f"http://127.0.0.1:{port}", folder / "log", folder / "out"
        quiet = {key: value for key, value in QUIET.items() if "MULTIPROCESSING" not in key}
        with self.log.open("w") as log, self.out.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fastadasp", "serve", *options], env=os.environ | quiet, stdout=out, stderr=log
            )
        end = time.monotonic() + 300
        while not self.out.read_text().endswith("\n"):
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.3)

    def ask(self, sound: Path, **more: object) -> dict:
        clip = {"data": base64.b64encode(sound.read_bytes()).decode(), "format": "ogg"}
        content = [{"type": "input_audio", "input_audio": clip}, {"type": "text", "text": TEXT}]
        asked = {"model": "embedded", "temperature": 0, "max_tokens": NEW, **more}
        asked["messages"] = [{"role": "user", "content": content}]
        request = urllib.request.Request(
            f"{self.url}/v1/chat/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def counted(self) -> list[float]:
        """The counter's values: audio tokens before, and after."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        pattern = r'^fastadasp_audio_tokens_total\{stage="(\w+)"\} (\S+)$'
        found = dict(re.findall(pattern, text, re.MULTILINE))
        return [float(found.get(stage, 0)) for stage in ("before", "after")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    yield made
    made.process.kill() if made.process.poll() is None else None


def sounds() -> list[Path]:
    return [data_path() / row["audio_filepath"] for row in read_rows(data_path(), ["asr"], 3)]


def test_text_is_that_of_transformers_and_counts_are_told(server) -> None:
    import transformers

    processor = transformers.AutoProcessor.from_pretrained(model_path(), local_files_only=True)
    settings = [SETTING | {"ask": TEXT}, SETTING | {"ask": TEXT, "budget": 0.8}]
    half, few = [
        [processor.decode(tokens, skip_special_tokens=True) for tokens in answers[: len(sounds())]]
        for answers in results("run.py", "reference", settings)[0]
    ]
    assert half != few
    prompts = [
        processor(text=build_prompt(TEXT), audio=read_audio(sound, 16000), sampling_rate=16000)["input_ids"][0]
        for sound in sounds()
    ]
    audio = processor.tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    full = [list(prompt).count(audio) for prompt in prompts]
    recipe = load_strategy("affinity-pooling", site="input", layers={"layer": 0}, budget=0.5)
    left = [recipe.left(tokens, 4) for tokens in full]

    assert server.counted() == [0, 0]  # vLLM's own rehearsal is no request
    answers = [server.ask(sound) for sound in sounds()]
    assert [a["choices"][0]["message"]["content"] for a in answers] == half
    assert server.counted() == [sum(full), sum(left)]
    lengths = [len(p) - n + m for p, n, m in zip(prompts, full, left, strict=True)]
    assert [a["usage"]["prompt_tokens"] for a in answers] == lengths
    own = [server.ask(sound, mm_processor_kwargs={"fastadasp_budget": 0.8}) for sound in sounds()]
    assert [a["choices"][0]["message"]["content"] for a in own] == few


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here")
def test_the_printed_line_works(server) -> None:
    done = subprocess.run(["sh", "-c", server.out.read_text()], capture_output=True, text=True, timeout=120, check=True)
    answer = json.loads(done.stdout)
    assert answer["choices"][0]["message"]["content"].strip()


def test_throughput_is_measured_full_and_reduced(server) -> None:
    """The rows of `fastadasp bench --engine vllm`, from a server that runs already."""
    plan = Plan(str(model_path()), sounds(), ["affinity-pooling"], ["0.5"], new_tokens=4, rounds=2, warmup=0)
    clips = recordings(sounds(), 4.0)
    full, half = measured(plan, "affinity-pooling", [Budget.of(0.5)], 4.0, 2, (server.port, "embedded", clips))
    assert (full["strategy"], full["budget"], half["strategy"], half["budget"]) == (
        "full", None, "affinity-pooling", "0.5"
    )  # fmt: skip
    audio = full["prompt_tokens"] - half["prompt_tokens"]
    assert audio == pytest.approx(50, abs=2)  # of 100 for four seconds
    for row in (full, half):
        assert 0 < row["first_token_s"] <= row["last_token_s"]
        assert row["tokens_per_s"] == pytest.approx(4 * row["requests_per_s"], rel=0.5)
        assert (row["engine"], row["concurrency"], row["requests"], row["rounds"]) == ("vllm", 2, 4, 2)
        assert row["versions"]["vllm"]
    assert full["throughput_ratio"] == 1


def test_interrupting_ends_everything(server) -> None:
    """Last: nothing of the server is left afterwards."""
    below = descendants(server.process.pid)
    assert len(below) >= 2  # the server and its engine
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(timeout=60) == 0, server.log.read_text()[-2000:]
    assert "Traceback" not in server.log.read_text().rpartition("shutdown")[2]
    end = time.monotonic() + 20
    while (left := below & set(living())) and time.monotonic() < end:
        time.sleep(0.3)
    assert not left
