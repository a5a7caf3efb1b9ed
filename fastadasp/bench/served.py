"""Throughput inside vLLM: a server with a strategy, asked by several at once, with its budget and with none."""

from __future__ import annotations

import base64
import http.client
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from fastadasp.audio import read_audio
from fastadasp.bench.grid import FULL
from fastadasp.bench.machine import machine
from fastadasp.counts.budget import Budget
from fastadasp.errors import FastAdaSPError, RunError
from fastadasp.serving.launch import Checked, address, checked, free_port, running, server_command
from fastadasp.serving.options import BUDGET, whole_recipe
from fastadasp.serving.vllm import fault, installed

RATE = 16_000
CLIPS = 8
"""Different recordings; each request has one of them, changed by a hair so that no cache knows it."""
PLACES = 2
"""Requests of a round for each that runs at the same time; at least `LEAST` altogether."""
LEAST = 4
TEXT = "Transcribe the speech into text."
_OPTIONS = ("--no-enable-prefix-caching", "--mm-processor-cache-gb", "0", "--trust-request-mm-kwargs")


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        model: a folder or hub id.
        sounds: recordings that clips are made of, joined and cut to `seconds`.
        concurrency: how many requests run at the same time.
        more: options of vLLM's server.
    """

    model: str
    sounds: Sequence[Path]
    strategies: Sequence[str]
    budgets: Sequence[str]
    seconds: Sequence[float] = (8.0, 28.0)
    concurrency: Sequence[int] = (1, 8, 32)
    new_tokens: int = 32
    rounds: int = 3
    warmup: int = 1
    more: Sequence[str] = ()
    overrides: dict[str, Any] = field(default_factory=dict)

    def recipes(self) -> list[tuple[Checked, list[Budget]]]:
        """Each strategy, ready to be served, with its budgets. Raises before anything heavy is done."""
        numbers = {"new tokens": self.new_tokens, "rounds": self.rounds}
        numbers["concurrency"] = min(self.concurrency, default=0)
        for name, number in numbers.items():
            if number < 1:
                raise RunError(f"{name} must be at least 1, not {number}")
        if self.warmup < 0:
            raise RunError(f"warm-up rounds must be at least 0, not {self.warmup}")
        if not self.seconds or min(self.seconds) <= 0:
            raise RunError("seconds of audio must be above 0")
        budgets = Budget.several(list(self.budgets))
        found = []
        for name in self.strategies:
            recipe = whole_recipe(name, self.overrides)
            made = [checked(self.model, {"strategy": recipe, "budget": str(budget)}) for budget in budgets]
            found.append((made[0], budgets))
        if reason := fault():
            raise RunError(f"--engine vllm: {reason}")
        return found


@dataclass(frozen=True)
class Answer:
    """One request: seconds to the first token and to the last, tokens of the prompt and of the answer."""

    first: float
    last: float
    prompt: int
    tokens: int


def run(plan: Plan, progress: Callable[[str], None] = lambda _: None) -> Iterator[list[dict[str, Any]]]:
    """The rows of each strategy, length and concurrency: first the full model's, then those of each budget.

    Full and reduced requests go to the same server, in turns; the full ones bring the budget 0.
    """
    for made, budgets in plan.recipes():
        port = free_port()
        url = address("127.0.0.1", port)
        command = server_command(plan.model, "measured", made.overrides, "127.0.0.1", port, [*_OPTIONS, *plan.more])
        with tempfile.TemporaryDirectory() as folder:
            progress(f"vLLM starts with {made.name}")
            with running(command, url, Path(folder) / "log") as name:
                for seconds in plan.seconds:
                    clips = recordings(plan.sounds, seconds)
                    for together in plan.concurrency:
                        progress(f"{made.name}, {seconds:g} s, {together} at a time")
                        yield measured(plan, made.name, budgets, seconds, together, (port, name, clips))


def recordings(sounds: Sequence[Path], seconds: float) -> list[NDArray[np.float32]]:
    """`CLIPS` recordings of so many seconds, cut from all sounds joined in their order."""
    size = int(seconds * RATE)
    pieces: list[NDArray[np.float32]] = []
    for path in sounds:
        pieces.append(read_audio(path, RATE))
        if sum(map(len, pieces)) >= CLIPS * size:
            break
    whole = np.concatenate(pieces)
    whole = np.tile(whole, -(-CLIPS * size // len(whole)))
    return [whole[i * size : (i + 1) * size].astype(np.float32) for i in range(CLIPS)]


def measured(
    plan: Plan, name: str, budgets: Sequence[Budget], seconds: float, together: int, server: tuple[int, str, Any]
) -> list[dict[str, Any]]:
    """One row for the full model and one for each budget; `server` is its port, its model's name and the clips."""
    cells: list[Budget | None] = [None, *budgets]
    walls: dict[Budget | None, list[float]] = {cell: [] for cell in cells}
    answers: dict[Budget | None, list[Answer]] = {cell: [] for cell in cells}
    requests = max(LEAST, PLACES * together)
    for turn in range(plan.warmup + plan.rounds):
        for cell in cells if turn % 2 else cells[::-1]:
            wall, got = _load(server, cell, turn, requests, together, plan.new_tokens)
            if turn >= plan.warmup:
                walls[cell].append(wall)
                answers[cell] += got
    place = machine("cpu")
    place["versions"] |= {"vllm": installed()}
    rows = []
    for cell in cells:
        rates = [requests / wall for wall in walls[cell]]
        ratios = [full / wall for full, wall in zip(walls[None], walls[cell], strict=True)]
        got = answers[cell]
        rows.append(
            {
                "engine": "vllm",
                "model": plan.model,
                "strategy": FULL if cell is None else name,
                "served_with": name,
                "budget": None if cell is None else str(cell),
                "seconds": seconds,
                "concurrency": together,
                "requests": requests,
                "rounds": plan.rounds,
                "requests_per_s": median(rates),
                "requests_per_s_quartiles": np.quantile(rates, [0.25, 0.75]).tolist(),
                "throughput_ratio": median(ratios),
                "tokens_per_s": sum(a.tokens for a in got) / sum(walls[cell]),
                "first_token_s": median(a.first for a in got),
                "last_token_s": median(a.last for a in got),
                "prompt_tokens": median(a.prompt for a in got),
                "new_tokens": plan.new_tokens,
            }
            | place
        )
    return rows


def _load(
    server: tuple[int, str, Any], cell: Budget | None, turn: int, requests: int, together: int, new_tokens: int
) -> tuple[float, list[Answer]]:
    """Seconds until all requests of one round were answered, and the answers."""
    port, name, clips = server
    # Bodies are made before the clock starts. A first sample of its own makes each recording new to the server.
    bodies = []
    for i in range(requests):
        wave = clips[i % len(clips)].copy()
        wave[0] = (turn * requests + i + (0 if cell is None else 7919)) % 16_000 / 32_768
        bodies.append(_body(name, wave, cell, new_tokens))
    with ThreadPoolExecutor(together) as pool:
        begin = time.perf_counter()
        answers = list(pool.map(lambda body: _ask(port, body), bodies))
        wall = time.perf_counter() - begin
    if short := [a for a in answers if a.tokens != new_tokens]:
        raise FastAdaSPError(f"{len(short)} answers have other than {new_tokens} tokens; give the server more room")
    return wall, answers


def _body(name: str, wave: NDArray[np.float32], budget: Budget | None, new_tokens: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, RATE, format="WAV", subtype="PCM_16")
    audio = {"data": base64.b64encode(file.getvalue()).decode(), "format": "wav"}
    content = [{"type": "input_audio", "input_audio": audio}, {"type": "text", "text": TEXT}]
    asked = {
        "model": name,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": new_tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "mm_processor_kwargs": {BUDGET: 0 if budget is None else str(budget)},
    }
    return json.dumps(asked).encode()


def _ask(port: int, body: bytes) -> Answer:
    """One request, answered piece by piece. Raises FastAdaSPError with what the server says against it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    begin = time.perf_counter()
    first = last = 0.0
    usage: dict[str, Any] = {}
    try:
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise FastAdaSPError(f"the server refused a request: {answer.read(2000).decode(errors='replace')}")
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            piece = json.loads(line.removeprefix(b"data: "))
            if "error" in piece:
                raise FastAdaSPError(f"the server failed: {piece['error']}")
            if piece.get("choices"):
                last = time.perf_counter() - begin
                first = first or last
            usage = piece.get("usage") or usage
    finally:
        connection.close()
    return Answer(first, last, int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
