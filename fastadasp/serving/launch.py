"""Starting vLLM's own server with a strategy, and ending it: a child process that receives our signals."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastadasp.errors import FastAdaSPError, ModelError, StrategyError
from fastadasp.serving.options import overrides, serving, strategy_for

SERVER = "vllm.entrypoints.openai.api_server"
OURS = ("--hf-overrides", "--model", "--host", "--port", "--config")
"""Options of vLLM's that `server_command` gives itself, and the one whose file may give them again."""
GRACE = 60.0
"""Seconds that the server has to end after a signal, before it is killed."""
_POLL = 0.3


@dataclass(frozen=True)
class Checked:
    """A model and options that go together.

    Attributes:
        overrides: for vLLM's ``--hf-overrides``.
        name: the recipe's.
    """

    overrides: dict[str, Any]
    name: str


def checked(model: str, options: dict[str, Any]) -> Checked:
    """Whether a model can be served with a strategy, told before a server starts.

    Args:
        model: a folder with config.json, or a hub id.
        options: as for `serving.options.strategy_for`.

    Raises:
        StrategyError: the recipe has a fault, needs more than features, or the family cannot be served.
        ModelError: the configuration cannot be read.
    """
    recipe = strategy_for(options)  # its faults before a hub is asked
    architecture, layers = architecture_of(model)
    made = overrides(options, architecture)
    serving(options, layers)
    return Checked(made, recipe.name)


def architecture_of(model: str) -> tuple[str, int]:
    """A model's architecture, and the layers of its decoder. Raises ModelError."""
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"the configuration of {model} cannot be read: {str(error).splitlines()[0]}") from None
    named = list(getattr(config, "architectures", None) or ())
    if not named:
        raise ModelError(f"the configuration of {model} names no architecture")
    text = getattr(config, "thinker_config", config).get_text_config()
    return named[0], int(text.num_hidden_layers)


def server_command(
    model: str, name: str, changes: dict[str, Any], host: str, port: int, more: Sequence[str] = ()
) -> list[str]:
    """The command line of vLLM's server.

    Args:
        model: a folder, or a hub id.
        name: what requests call the model, unless `more` says otherwise.
        changes: `Checked.overrides`.
        host: address to listen at.
        port: its port.
        more: options of vLLM's own, as they are.

    Raises:
        StrategyError: `more` has an option that is given here already.
    """
    if twice := [word for word in more if any(_says(word, ours) for ours in OURS)]:
        raise StrategyError(
            f"{twice[0].partition('=')[0]} among vLLM's options would undo what fastadasp serve sets; leave it out"
        )
    names = [] if any(_says(word, "--served-model-name") for word in more) else ["--served-model-name", name]
    return [
        sys.executable, "-m", SERVER, "--model", model, *names, "--host", host, "--port", str(port),
        "--hf-overrides", json.dumps(changes), *more,
    ]  # fmt: skip


def _says(word: str, option: str) -> bool:
    """Whether vLLM's parser reads `word` as this option: with `_` for `-`, cut short, or with a key after a dot."""
    said = word.partition("=")[0].partition(".")[0].replace("_", "-")
    return len(said) > len("--") and said.startswith("--") and option.startswith(said)


def address(host: str, port: int) -> str:
    """The URL under which this machine reaches a server that listens at `host`."""
    near = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"http://{near}:{port}"


def request_line(url: str, name: str, sound: Path, text: str) -> str:
    """A line for a shell that sends a recording and `text` to the server at `url`.

    The recording stands between two pieces of JSON that are piped, so it may be longer than a command line.
    """
    here = uuid.uuid4().hex  # what no name and no text holds
    sent = {"type": "input_audio", "input_audio": {"data": here, "format": sound.suffix.lstrip(".")}}
    messages = [{"role": "user", "content": [sent, {"type": "text", "text": text}]}]
    body = json.dumps({"model": name, "temperature": 0, "messages": messages})
    before, after = (shlex.quote(part) for part in body.split(here))
    return (
        f"(printf %s {before}; base64 < {shlex.quote(str(sound))} | tr -d '\\n'; printf %s {after}) | "
        f"curl -s {url}/v1/chat/completions -H 'Content-Type: application/json' -d @-"
    )


def serve(command: Sequence[str], url: str, ready: Callable[[str | None], None]) -> int:
    """Runs a server until it ends, or SIGINT, SIGTERM or SIGHUP end it. It never outlives the call.

    Args:
        command: of the server.
        url: its address.
        ready: called once when it answers, with the name of its model; None if it tells that to nobody without a key.

    Returns:
        The server's exit code; 0 if a signal ended it.

    Raises:
        FastAdaSPError: another server answers at the address already.
    """
    if _answers(url):
        raise FastAdaSPError(f"something answers at {url} already; choose another --port")
    # In a session of its own a terminal's Ctrl-C reaches it through us, once. Its log is no result of ours.
    child = subprocess.Popen(list(command), stdout=sys.stderr, start_new_session=True)
    with _signals_to(child) as ended:
        try:
            told = False
            while child.poll() is None:
                if not told and not ended and _answers(url):
                    told = True
                    ready(_model_name(url))
                time.sleep(_POLL)
                if ended and time.monotonic() - ended[0] > GRACE:
                    _kill(child)
        finally:
            _end(child)
    return 0 if ended else child.returncode


@contextmanager
def running(command: Sequence[str], url: str, log: Path, patience: float = 600.0) -> Iterator[str]:
    """A server that answers inside, and is ended afterwards; gives the name of its model.

    Args:
        command: of the server.
        url: its address.
        log: the file that gets all it says.
        patience: seconds in which it has to answer.

    Raises:
        FastAdaSPError: it ended by itself, or did not answer in time (with the end of what it said), or asks for a key.
    """
    with log.open("w") as out:
        child = subprocess.Popen(list(command), stdout=out, stderr=out, start_new_session=True)
    try:
        end = time.monotonic() + patience
        while not _answers(url):
            if child.poll() is not None or time.monotonic() > end:
                why = "ended by itself" if child.poll() is not None else f"did not answer in {patience:g} s"
                said = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
                raise FastAdaSPError(f"the server {why}; it said last:\n{said}")
            time.sleep(_POLL)
        name = _model_name(url)
        if name is None:
            raise FastAdaSPError("the server does not say what its model is called; leave out --api-key")
        yield name
    finally:
        _end(child)


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _signals_to(child: subprocess.Popen[bytes]) -> Iterator[list[float]]:
    """Inside, signals that would end us go to the child; the list has the times at which that was so. A third kills."""
    ended: list[float] = []

    def on(number: int, _: Any) -> None:
        ended.append(time.monotonic())
        if child.poll() is not None:
            return
        if len(ended) < 3:
            child.send_signal(sent[number])
        else:
            _kill(child)

    sent: dict[int, int] = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM}
    # A terminal that is closed; what `nohup` starts ignores it. vLLM cleans up after SIGTERM alone.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        sent[signal.SIGHUP] = signal.SIGTERM
    before = {kind: signal.signal(kind, on) for kind in sent}
    try:
        yield ended
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ends a server, if it has not ended: it is asked, and killed if it has not gone after `GRACE`."""
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        _kill(child)
        child.wait()


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kills a server with the processes that it started, which hold the GPU: the session is its own."""
    if hasattr(os, "killpg"):
        with suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    except http.client.BadStatusLine:  # something that speaks another language
        return True


def _model_name(url: str) -> str | None:
    """What the server calls its model; None if it does not say, for example to those without a key."""
    try:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=10) as answer:
            return str(json.load(answer)["data"][0]["id"])
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return None
