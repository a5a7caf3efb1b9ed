"""`fastadasp serve` without vLLM: what is refused, the command line that is made, and how a server is ended."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import run

from fastadasp import StrategyError, load_strategy
from fastadasp.bench.served import recordings
from fastadasp.demo import data_path, model_path
from fastadasp.errors import FastAdaSPError
from fastadasp.serving import vllm as plugin
from fastadasp.serving.launch import address, checked, free_port, request_line, running, serve, server_command
from fastadasp.serving.options import serving, whole_recipe

OPTIONS = {"strategy": "uniform", "budget": 0.5, "positions": "even"}

SERVER = """
import http.server, json, signal, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if sys.argv[2:] == ["secret"] and self.path == "/v1/models": return self.send_error(401)
        self.send_response(200), self.end_headers()
        self.wfile.write(json.dumps({"data": [{"id": "a model"}]}).encode())
    def log_message(self, *given): pass
def end(number, frame): print("told", signal.Signals(number).name, flush=True); sys.exit(7)
for kind in (signal.SIGINT, signal.SIGTERM): signal.signal(kind, end)
print("a log", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""
PARENT = """
import sys
from fastadasp.serving.launch import serve
def ready(name):
    print("ready", name, flush=True)
    if "fails" in sys.argv: raise BrokenPipeError
sys.exit(serve([sys.executable, *sys.argv[2:]], sys.argv[1], ready))
"""

REFUSALS = {
    "no strategy": ([], "--strategy uniform"),
    "a recipe that needs attention": (["--strategy", "fastadasp-dense"], "needs queries and keys"),
    "a budget of the prompt": (["--strategy", "uniform", "--budget", "flops=0.5"], "depends on the whole prompt"),
    "an unknown strategy": (["--strategy", "unifrm"], "Did you mean 'uniform'"),
    "unknown positions": (["--strategy", "uniform", "--positions", "evenly"], "positions"),
    "a fault in --set": (["--strategy", "uniform", "--set", "bugdet=0.5"], "budget"),
    "no model": (["nowhere/at/all", "--strategy", "uniform"], "there is no model folder"),
}


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "installed", lambda: None)


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_served_is_refused(case: str, no_vllm) -> None:
    options, words = REFUSALS[case]
    code, told = run("serve", *options)
    assert code == 2
    assert words in told
    assert "Traceback" not in told


def test_vllm_has_to_be_there(no_vllm) -> None:
    code, told = run("serve", "--strategy", "uniform")
    assert (code, told.count("\n")) == (2, 1)
    assert "vLLM is not installed here" in told


@pytest.mark.parametrize("release", ["0.31.2", "0.33.0", "1.0"])
def test_releases_that_were_not_tested_are_refused(release: str, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(plugin, "installed", lambda: release)
    code, told = run("serve", "--strategy", "uniform")
    assert code == 2
    assert f"{release} is installed" in told
    assert str(plugin.TESTED) in told
    with caplog.at_level("INFO", logger="vllm.fastadasp"):
        plugin.register()  # and imports nothing of vLLM
    assert f"{release} is installed" in caplog.text


def test_releases_inside_the_range_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for release in ("0.32.0", "0.32.1", "0.32.0+cpu"):
        monkeypatch.setattr(plugin, "installed", lambda release=release: release)
        assert plugin.fault() is None


def test_another_family_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(StrategyError, match="architecture 'LlamaForCausalLM' cannot be served"):
        checked(str(tmp_path), OPTIONS)


def test_the_command_line() -> None:
    found = checked(str(model_path()), OPTIONS)
    line = server_command("folder", "name", found.overrides, "0.0.0.0", 80, ["--max-model-len", "9"])
    assert line[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
    assert json.loads(line[line.index("--hf-overrides") + 1])["fastadasp"] == OPTIONS
    assert line[-2:] == ["--max-model-len", "9"]
    assert line[line.index("--served-model-name") + 1] == "name"
    named = server_command("folder", "name", {}, "::", 80, ["--served-model-name=other"])
    assert "--served-model-name" not in named
    with pytest.raises(StrategyError, match="--hf-overrides among vLLM's options would undo"):
        server_command("folder", "name", {}, "::", 80, ["--hf-overrides={}"])
    named = server_command("folder", "name", {}, "::", 80, ["--served_model_name", "other"])
    assert "--served-model-name" not in named
    assert (address("0.0.0.0", 80), address("::", 80)) == ("http://127.0.0.1:80", "http://[::1]:80")


@pytest.mark.parametrize(
    "words",
    [
        ["--hf_overrides", "{}"],
        ["--hf-overrides.rope_theta", "1"],
        ["--hf_overrides.rope_theta=1"],
        ["--hf-over", "{}"],
        ["--config", "options.yaml"],
        ["--max-model-len", "9", "--mode=other"],
    ],
)
def test_no_spelling_of_our_options_reaches_vllm(words: list[str]) -> None:
    """Its parser takes the last of two, and the full model would answer."""
    with pytest.raises(StrategyError, match="would undo what fastadasp serve sets"):
        server_command("folder", "name", {}, "::", 80, words)


def test_options_that_only_begin_like_ours_reach_vllm() -> None:
    words = ["--hf-config-path", "a", "--model-impl=auto", "--compilation-config.mode", "3", "--", "-tp", "1"]
    assert server_command("folder", "name", {}, "::", 80, words)[-len(words) :] == words


@pytest.mark.skipif(os.name == "nt", reason="a line for a shell of Unix")
def test_the_request_line_says_what_it_should(tmp_path: Path) -> None:
    """Names with quotes and signs, and a recording longer than a command line may be."""
    sound = tmp_path / "it's 100% loud.wav"
    sound.write_bytes(bytes(range(256)) * 2000)
    name = 'a "model" \\n %s @v2'
    line = request_line("http://127.0.0.1:1", name, sound, "What's said?")
    assert "curl -s http://127.0.0.1:1/v1/chat/completions" in line
    piped = line.rpartition(" | curl")[0]
    body = json.loads(subprocess.run(["sh", "-c", piped], capture_output=True, check=True).stdout)
    audio, text = body["messages"][0]["content"]
    assert (body["model"], text["text"], audio["input_audio"]["format"]) == (name, "What's said?", "wav")
    assert base64.b64decode(audio["input_audio"]["data"]) == sound.read_bytes()


def started(*server: str, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, url, *server], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
@pytest.mark.parametrize(("kind", "told"), [("SIGINT", "SIGINT"), ("SIGTERM", "SIGTERM"), ("SIGHUP", "SIGTERM")])
def test_a_signal_ends_the_server(kind: str, told: str) -> None:
    port = free_port()
    process = started("-c", SERVER, str(port), url=f"http://127.0.0.1:{port}")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready a model\n"
    process.send_signal(getattr(signal, kind))
    out, log = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")  # the server's log is on stderr
    assert log.split("\n")[:2] == ["a log", f"told {told}"]
    assert not listens(port)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_a_server_does_not_outlive_an_error_of_ours() -> None:
    port = free_port()
    process = started("-c", SERVER, str(port), "fails", url=f"http://127.0.0.1:{port}")
    _, told = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "told SIGINT" in told
    assert "BrokenPipeError" in told
    assert not listens(port)


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_a_server_with_a_key_does_not_tell_its_model(tmp_path: Path) -> None:
    port, names = free_port(), []
    url, command = f"http://127.0.0.1:{port}", [sys.executable, "-c", SERVER, str(port), "secret"]

    def ready(name: str | None) -> None:
        names.append(name)
        os.kill(os.getpid(), signal.SIGTERM)

    assert serve(command, url, ready) == 0
    assert names == [None]
    with pytest.raises(FastAdaSPError, match="leave out --api-key"), running(command, url, tmp_path / "log"):
        pass


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_a_hangup_that_is_ignored_stays_so() -> None:
    """As `nohup` has it."""
    port = free_port()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = started("-c", SERVER, str(port), url=f"http://127.0.0.1:{port}")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready a model\n"
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_a_server_that_fails_by_itself_is_told() -> None:
    process = started("-c", "import sys; sys.exit(3)", url=f"http://127.0.0.1:{free_port()}")
    assert (process.communicate(timeout=60)[0], process.returncode) == ("", 3)


def test_an_address_in_use_is_refused() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    other = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        with pytest.raises(FastAdaSPError, match="something answers at"):
            serve(["false"], url, print)
    finally:
        other.kill()
        other.wait()


def test_a_server_runs_for_a_while(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    url = f"http://127.0.0.1:{port}"
    with running([sys.executable, "-c", SERVER, str(port)], url, log) as name:
        assert name == "a model"
    assert log.read_text() == "a log\ntold SIGINT\n"
    with (
        pytest.raises(FastAdaSPError, match=r"ended by itself; it said last:\nno room"),
        running([sys.executable, "-c", "print('no room')"], url, log),
    ):
        pass
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(FastAdaSPError, match="did not answer in"), running(sleeper, url, log, patience=0.5):
        pass


def test_a_request_may_ask_for_the_full_model() -> None:
    made = serving(OPTIONS, 4)
    assert [made.left(40, budget) for budget in (None, 0, "0", 0.25)] == [20, 40, 40, 30]


def test_recipes_of_files_and_with_changes_travel_whole(tmp_path: Path) -> None:
    assert whole_recipe("uniform", {}) == "uniform"
    changed = whole_recipe("uniform", {"positions": "even"})
    assert isinstance(changed, dict)
    assert changed["positions"] == "even"
    (tmp_path / "mine.toml").write_text(load_strategy("divprune").to_toml())
    assert whole_recipe(str(tmp_path / "mine.toml"), {}) == load_strategy("divprune").to_dict()


BENCH = {
    "no vLLM": ([], "--engine vllm: vLLM is not installed here"),
    "options of the other engine": (["--shape", "tiny"], "--shape means nothing with --engine vllm"),
    "a device": (["--device", "cpu"], "--device means nothing with --engine vllm"),
    "no concurrency": (["--concurrency", "0"], "concurrency must be at least 1"),
    "a recipe that cannot be served": (["--strategies", "fastadasp-dense"], "needs queries and keys"),
    "a budget of the prompt": (["--budgets", "flops=0.5"], "depends on the whole prompt"),
    "half a quote": (["--server", "--seed '1"], "is no command line: no closing quotation"),
    "no length": (["--seconds", "0"], "seconds of audio must be above 0"),
    "no such model": (["--model", "no/such/model"], "there is no model folder"),
}


@pytest.mark.parametrize("case", BENCH)
def test_measuring_a_server_refuses_what_it_cannot(case: str, no_vllm) -> None:
    given, words = BENCH[case]
    code, told = run("bench", "--engine", "vllm", *given)
    assert code == 2
    assert words in told


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_a_signal_ends_a_server_that_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    def measure(plan: object, progress: object) -> Iterator[list[object]]:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
            yield []
        finally:
            ended.append(True)

    monkeypatch.setattr("fastadasp.bench.served.run", measure)
    assert run("bench", "--engine", "vllm")[0] != 0
    assert ended == [True]


def test_options_of_a_server_need_one() -> None:
    assert run("bench", "--concurrency", "8")[0] == 2
    code, told = run("bench", "--engine", "sglang")
    assert (code, "--engine is transformers or vllm" in told) == (2, True)


def test_recordings_have_the_length_and_differ() -> None:
    sounds = sorted(data_path().glob("audio/number-*.ogg"))
    clips = recordings(sounds, 2.5)
    assert {len(clip) for clip in clips} == {40_000}
    assert len({clip.tobytes() for clip in clips}) == len(clips)
    assert len(recordings(sounds[:1], 60.0)[0]) == 960_000  # told again where there is too little


COMPARE = {
    "no vLLM": (["--strategies", "affinity-pooling"], "--engine vllm: vLLM is not installed here"),
    "another engine": (["--engine", "sglang"], "--engine is transformers or vllm"),
    "a budget of the prompt": (["--budgets", "flops=0.5"], "depends on the whole prompt"),
}


@pytest.mark.parametrize("case", COMPARE)
def test_comparing_inside_vllm_refuses_what_it_cannot(case: str, no_vllm, tmp_path: Path) -> None:
    given, words = COMPARE[case]
    code, told = run("compare", "--engine", "vllm", *given, "--output", str(tmp_path / "out"))
    assert code == 2
    assert words in told
    assert not (tmp_path / "out").exists()


def test_recipes_are_refused_that_act_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They would be another method there. Nothing of vLLM is imported for it."""
    monkeypatch.setattr(plugin, "installed", lambda: "0.32.0")
    line = ["compare", "--engine", "vllm", "--tasks", "er", "--limit", "1", "--budgets", "0.5"]
    code, told = run(*line, "--strategies", "uniform", "--output", str(tmp_path / "out"))
    assert code == 2
    assert "recipe 'uniform' acts at the site \"block\"" in told
    moved = ["--strategies", "affinity-pooling", "--executor", "ray"]
    code, told = run(*line, *moved, "--output", str(tmp_path / "out"))
    assert code == 2
    assert "runs with the executor local, not ray" in told
