"""Submissions and the leaderboard: what a file holds, what is refused, what is ranked with what."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from command import run
from pydantic import BaseModel

from fastadasp import RunError, load_run
from fastadasp.leaderboard.boards import Board, boards_of
from fastadasp.leaderboard.page import html
from fastadasp.leaderboard.submission import (
    Asked,
    Code,
    Machine,
    Model,
    Row,
    Submission,
    read_submission,
    submission_of,
)

DOCS = Path(__file__).parents[1] / "docs"
OURS = DOCS / "leaderboard" / "embedded-cpu.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    options = ("--strategies", "weighted,random-prune", "--budgets", "0.5", "--limit", "20", "--seeds", "2")
    code, told = run("compare", "--tasks", "er", "--output", str(folder), *options)
    assert code == 0, told
    return folder


@pytest.fixture
def content(made: Path) -> dict[str, Any]:
    """The submission of that run, as JSON."""
    return deepcopy(submission_of(load_run(made), "the embedded model").model_dump(mode="json"))


def sealed(content: dict[str, Any], folder: Path, name: str = "s.json") -> Path:
    """The content as a file with the checksum that belongs to it."""
    made = Submission.model_validate(content | {"checksum": ""})
    path = folder / name
    path.write_text(made.model_copy(update={"checksum": made.sum()}).model_dump_json())
    return path


def test_a_submission_holds_what_the_run_found(made: Path, content: dict[str, Any], tmp_path: Path) -> None:
    code, told = run("submit", str(made), "--output", str(tmp_path / "s.json"))
    assert code == 0, told
    found = read_submission(tmp_path / "s.json")
    assert found.model_dump(mode="json") == content
    about = json.loads((made / "run.json").read_text())
    assert (found.model.hash, found.code.hash, found.code.git) == (about["model_hash"], about["code"], about["git"])
    assert found.machine.name == about["device_name"]
    (task,) = found.tasks
    assert (task.name, task.clips, task.prompt) == ("er", 20, about["prompts"]["er"])
    assert len(task.facts.data) == len(task.facts.questions) == 64
    rows = {row.strategy: row for row in found.rows}
    assert set(rows) == {"full", "weighted", "random-prune"}
    assert rows["random-prune"].seeds == [0, 1]
    assert rows["full"].recipe is None
    assert rows["weighted"].recipe == about["strategies"]["weighted"]
    cells = [json.loads(line) for line in (made / "results.jsonl").read_text().splitlines()]
    weighted = next(cell for cell in cells if cell["strategy"] == "weighted")
    assert rows["weighted"].value == weighted["metrics"]["accuracy"]
    assert rows["weighted"].flops == weighted["efficiency"]["flops"]
    assert rows["weighted"].flops_removed == weighted["efficiency"]["flops_removed"]
    assert list(rows["weighted"].interval or ()) == pytest.approx(weighted["interval"])


def test_times_may_be_left_out(made: Path, tmp_path: Path) -> None:
    code, told = run("submit", str(made), "--output", str(tmp_path / "s.json"), "--no-times")
    assert code == 0, told
    found = read_submission(tmp_path / "s.json")
    assert all(row.prefill_seconds is None and row.decode_seconds is None for row in found.rows)
    page = html([found], boards_of([found]))
    assert page.count("<td>not measured</td>") == len(found.rows)
    assert "against prefill on" not in page


def test_hashes_tell_clips_and_questions_apart(tmp_path: Path) -> None:
    def facts(name: str, *more: str) -> Any:
        options = ("--strategies", "prune", "--budgets", "0.5", "--output", str(tmp_path / name), *more)
        code, told = run("compare", "--tasks", "er", *options)
        assert code == 0, told
        return submission_of(load_run(tmp_path / name)).tasks[0].facts

    first, again = facts("a", "--limit", "2"), facts("b", "--limit", "2")
    fewer, asked = facts("c", "--limit", "1"), facts("d", "--limit", "2", "--prompt", "How?")
    assert first == again
    assert fewer.data != first.data
    assert (asked.data, asked.questions != first.questions) == (first.data, True)


FAULTS: dict[str, tuple[Any, str]] = {
    "another kind": (lambda c: c.update(kind="x"), "is no submission; fastadasp submit writes one"),
    "another version": (lambda c: c.update(version=2), "has version 2; this fastadasp reads version 1"),
    "a key too many": (lambda c: c.update(more=1), "more: Extra inputs are not permitted"),
    "no rows": (lambda c: c.update(rows=[]), "rows: List should have at least 1"),
    "a share above 1": (lambda c: c["rows"][0].update(flops_removed=2), r"rows\.0\.flops_removed"),
    "a text for a number": (lambda c: c["rows"][1].update(value="good"), r"rows\.1\.value"),
    "an interval turned round": (lambda c: c["rows"][0].update(interval=[9, 1]), "ends before it begins"),
    "a value of its own": (lambda c: c["rows"][0].update(value=99.5), "value is not accuracy of its metrics"),
    "a task that is not there": (lambda c: c["rows"][0].update(task="asr"), "rows are of task 'asr', which"),
    "a row twice": (lambda c: c["rows"].append(c["rows"][0]), "stands twice in `rows`"),
    "a time that is no number": (lambda c: c["rows"][0].update(prefill_seconds=float("nan")), "a figure is not finite"),
    "a metric without end": (lambda c: c["rows"][0]["metrics"].update(x=float("inf")), "a figure is not finite"),
    "a fraction that is no number": (lambda c: c["rows"][0].update(kv_removed=float("nan")), "kv_removed|not finite"),
    "a score beyond all": (
        lambda c: c["rows"][0].update(value=1e300, metrics={"accuracy": 1e300}, interval=None),
        "a score is beyond 1e",
    ),
    "a negative time": (lambda c: c["rows"][0].update(prefill_seconds=-1), "a time is not between 0 and"),
    "FLOPs beyond all": (lambda c: c["rows"][0].update(flops=1e300), r"rows\.0\.flops"),
    "a name without end": (
        lambda c: c["model"].update(name="x" * 10_000),
        r"model\.name: String should have at most 200",
    ),
    "changed later": (lambda c: c["model"].update(name="better"), "changed after it was written"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_files_that_do_not_fit_the_schema(fault: str, content: dict[str, Any], tmp_path: Path) -> None:
    change, said = FAULTS[fault]
    change(content)
    path = tmp_path / "s.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RunError, match=said):
        read_submission(path)
    code, told = run("leaderboard", str(path), "--output", str(tmp_path / "page.html"))
    assert code == 2
    assert "Traceback" not in told
    assert not (tmp_path / "page.html").exists()


def test_files_that_are_nothing(tmp_path: Path) -> None:
    for text, said in (("{", "is no submission: not valid JSON"), ("[]", "is no submission")):
        (tmp_path / "s.json").write_text(text)
        with pytest.raises(RunError, match=said):
            read_submission(tmp_path / "s.json")
    with pytest.raises(RunError, match="cannot be read"):
        read_submission(tmp_path / "nothing.json")
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(200_000_000)
    with pytest.raises(RunError, match="has 200 MB; a submission has at most 50 MB"):
        read_submission(tmp_path / "large.json")
    for raw, said in (
        (b"\xff\xfe{", "is no submission"),
        (b"[" * 100_000, "nested too deep"),
        (b"\0" * 9, "not valid"),
    ):
        (tmp_path / "s.json").write_bytes(raw)
        with pytest.raises(RunError, match=said):
            read_submission(tmp_path / "s.json")
        code, told = run("leaderboard", str(tmp_path / "s.json"), "--output", str(tmp_path / "p.html"))
        assert (code, told.count("\n"), (tmp_path / "p.html").exists()) == (2, 1, False), told


def test_an_older_file_keeps_its_checksum(content: dict[str, Any], tmp_path: Path) -> None:
    """One that was written before a key was there."""
    import hashlib

    del content["tasks"][0]["facts"]["revision"], content["checksum"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    path = tmp_path / "s.json"
    path.write_text(json.dumps(content | {"checksum": hashlib.sha256(text.encode()).hexdigest()}))
    assert read_submission(path).tasks[0].facts.revision is None


def test_names_that_are_markup_stay_text(content: dict[str, Any], tmp_path: Path) -> None:
    bad = "<img src=x onerror=alert(1)>\n{{ 7 * 7 }}"
    content["model"]["name"] = content["machine"]["name"] = content["tasks"][0]["facts"]["metric"] = bad
    content["tasks"][0]["name"] = bad
    for row in content["rows"]:
        row |= {"task": bad, "strategy": row["strategy"] + bad, "metrics": {bad: row["value"]}}
    content["failed"] = [bad]
    found = read_submission(sealed(content, tmp_path))
    page = html([found], boards_of([found]), title=bad)
    assert "<img" not in page
    assert "{{ 7 * 7 }}" in page
    assert "49" not in page.partition("</title>")[0].partition("<title>")[2]


def test_one_page_has_one_head_and_one_style(content: dict[str, Any], tmp_path: Path, made: Path) -> None:
    """The leaderboard's and the report's."""
    found = read_submission(sealed(content, tmp_path))
    board = html([found], boards_of([found]))
    code, told = run("report", str(made), "--output", str(tmp_path / "report.html"))
    assert code == 0, told
    report = (tmp_path / "report.html").read_text()

    def head(page: str) -> list[str]:
        lines = page.partition("</style>")[0].splitlines()
        return [line for line in lines if not line.startswith("<title>")]

    assert head(board)[: len(head(report)) - 1] == head(report)[:-1]


def test_runs_that_cannot_be_submitted(made: Path, tmp_path: Path) -> None:
    old = shutil.copytree(made, tmp_path / "old")
    about = json.loads((old / "run.json").read_text())
    (old / "run.json").write_text(json.dumps(about | {"facts": {}}))
    with pytest.raises(RunError, match="did not record hashes"):
        submission_of(load_run(old))
    (old / "run.json").write_text(json.dumps(about | {"status": "running"}))
    with pytest.raises(RunError, match="still running"):
        submission_of(load_run(old))


def test_what_does_not_fit_a_submission_is_told(made: Path, tmp_path: Path) -> None:
    for name in ("x" * 201, ""):
        code, told = run("submit", str(made), "--name", name, "--output", str(tmp_path / "s.json"))
        assert (code, "Traceback" in told) == (2, False)
        assert f"{made} cannot be submitted:\n  - model.name: String should have at" in told
    odd = shutil.copytree(made, tmp_path / "odd")
    cells = (odd / "results.jsonl").read_text().splitlines()
    cells = [json.dumps(one | {"metrics": one["metrics"] | {"extra": float("nan")}}) for one in map(json.loads, cells)]
    (odd / "results.jsonl").write_text("\n".join(cells) + "\n")
    code, told = run("submit", str(odd), "--output", str(tmp_path / "s.json"))
    assert code == 2
    assert "full at - on er: a figure is not finite" in told
    about = json.loads((odd / "run.json").read_text())
    (odd / "run.json").write_text(json.dumps(about | {"prompts": {}}))
    code, told = run("submit", str(odd), "--output", str(tmp_path / "s.json"))
    assert (code, told.count("\n")) == (2, 1)
    assert "run.json does not tell all of task 'er'" in told
    assert not (tmp_path / "s.json").exists()


def other(content: dict[str, Any], model: str, **values: float) -> dict[str, Any]:
    """The submission of another model, whose rows have these values and no intervals."""
    made = deepcopy(content)
    made["model"] |= {"name": model, "hash": "0" * 64}
    for row in made["rows"]:
        value = values.get(row["strategy"].replace("-", "_"), row["value"])
        row |= {"value": value, "interval": None, "metrics": row["metrics"] | {"accuracy": value}}
    return made


def only(boards: list[Board]) -> Board:
    (board,) = boards
    return board


def test_ranks_and_fronts(content: dict[str, Any], tmp_path: Path) -> None:
    dear = other(content, "one", full=80, weighted=70, random_prune=60)
    cheap = other(content, "two", full=80, weighted=75, random_prune=60)
    for row in [*dear["rows"], *cheap["rows"]]:
        row["interval"] = [row["value"] - 1, row["value"] + 1]
    for row in cheap["rows"]:
        row["flops"] *= 0.5
    first = read_submission(sealed(dear, tmp_path, "a.json"))
    second = read_submission(sealed(cheap, tmp_path, "b.json"))
    board = only(boards_of([first, second, first]))  # the same file twice counts once
    shown = [(e.rank, e.submission.model.name, e.row.strategy, "flops" in e.fronts) for e in board.entries]
    assert [one[:3] for one in shown[:4]] == [
        (1, "one", "full"),
        (1, "two", "full"),
        (3, "two", "weighted"),
        (4, "one", "weighted"),
    ]
    front = {one[1:3] for one in shown if one[3]}
    assert ("two", "full") in front
    assert ("one", "full") not in front  # as good, and dearer
    assert [e.change for e in board.entries if e.row.strategy == "weighted"] == [-5, -10]


def test_overlapping_intervals_share_a_rank(content: dict[str, Any], tmp_path: Path) -> None:
    made = other(content, "one", full=80, weighted=70, random_prune=40)
    spans = {"full": [72, 88], "weighted": [60, 79], "random-prune": [30, 50]}
    for row in made["rows"]:
        row["interval"] = spans[row["strategy"]]
    board = only(boards_of([read_submission(sealed(made, tmp_path))]))
    assert {entry.row.strategy: entry.rank for entry in board.entries} == {"full": 1, "weighted": 1, "random-prune": 3}


def test_rows_without_intervals_are_not_told_apart(content: dict[str, Any], tmp_path: Path) -> None:
    """Too few clips give none. Where one row has an interval, another at 100 lacks its own since nothing varies."""
    few = other(content, "one", full=100, weighted=70, random_prune=40)
    board = only(boards_of([read_submission(sealed(few, tmp_path))]))
    assert [entry.rank for entry in board.entries] == [1, 1, 1]
    for row in few["rows"]:
        row["interval"] = {"full": None, "weighted": [60, 79], "random-prune": None}[row["strategy"]]
    board = only(boards_of([read_submission(sealed(few, tmp_path))]))
    assert {entry.row.strategy: entry.rank for entry in board.entries} == {"full": 1, "weighted": 2, "random-prune": 1}


def test_a_metric_where_lower_is_better(content: dict[str, Any], tmp_path: Path) -> None:
    made = other(content, "one", full=5, weighted=8, random_prune=30)
    made["tasks"][0]["facts"]["higher_is_better"] = False
    board = only(boards_of([read_submission(sealed(made, tmp_path))]))
    assert [entry.row.strategy for entry in board.entries] == ["full", "weighted", "random-prune"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": "1" * 64}, "other clips"),
        ({"questions": "1" * 64}, "other questions"),
        ({"settings": {"normaliser": "none"}}, "another metric or other settings"),
    ],
)
def test_what_differs_is_not_ranked_together(
    change: dict[str, Any], said: str, content: dict[str, Any], tmp_path: Path
) -> None:
    apart = other(content, "two")
    apart["tasks"][0]["facts"] |= change
    files = [sealed(content, tmp_path, "a.json"), sealed(apart, tmp_path, "b.json")]
    boards = boards_of([read_submission(path) for path in files])
    assert len(boards) == 2
    assert all(len(board.entries) == 3 and said in " ".join(board.apart) for board in boards)
    code, told = run("leaderboard", *map(str, files), "--output", str(tmp_path / "page.html"))
    assert code == 0
    assert f"rows of er (20 clips, {content['tasks'][0]['facts']['data'][:12]}) stand apart: {said}" in told
    page = (tmp_path / "page.html").read_text()
    assert page.count("Not ranked together with") == 2


def test_times_are_compared_on_equal_machines_only(content: dict[str, Any], tmp_path: Path) -> None:
    slow, fast = other(content, "one"), other(content, "two")
    fast["machine"]["name"] = "another"
    for row in slow["rows"]:
        row["prefill_seconds"] = 2.0
    for row in fast["rows"]:
        row["prefill_seconds"] = 1.0
    found = [read_submission(sealed(one, tmp_path, f"{i}.json")) for i, one in enumerate((slow, fast))]
    board = only(boards_of(found))
    timed = {entry.submission.model.name for entry in board.entries if "prefill_seconds" in entry.fronts}
    assert timed == {"one", "two"}
    assert html(found, [board]).count("against prefill on") == 2


def test_the_page_stands_alone_and_escapes_what_it_shows(content: dict[str, Any], tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>$x^{$"
    made = other(content, bad)
    made["tasks"][0]["prompt"] = bad
    found = read_submission(sealed(made, tmp_path))
    page = html([found], boards_of([found]))
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org/", "").replace("http://purl.org/", "").replace(
        "http://creativecommons.org/", ""
    )
    assert "https://" not in page
    pictures = page.split("<svg")[1:]
    assert len(pictures) == 3
    for picture in pictures:
        ElementTree.fromstring("<svg" + picture.partition("</svg>")[0] + "</svg>")


def test_the_leaderboard_as_json(content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fastadasp.cli.leaderboard as command

    command.leaderboard([sealed(content, tmp_path)], as_json=True)
    (board,) = json.loads(capsys.readouterr().out)
    assert (board["task"], board["metric"], len(board["rows"])) == ("er", "accuracy", 3)


def test_every_key_of_submissions_is_documented() -> None:
    page = (DOCS / "leaderboard.md").read_text(encoding="utf-8")
    models: tuple[type[BaseModel], ...] = (Submission, Model, Machine, Code, Asked, Row)
    for model in models:
        for name, field in model.model_fields.items():
            assert f"| `{name}` | {field.description} |" in page, name


def test_our_own_leaderboard_is_that_of_its_file() -> None:
    """The page in the documentation: its rows are those of the submission that lies beside it."""
    found = read_submission(OURS)
    page = (DOCS / "leaderboard" / "embedded.html").read_text(encoding="utf-8")
    assert found.checksum[:12] in page
    boards = boards_of([found])
    assert {board.task.name for board in boards} == {"asr", "er"}
    for board in boards:
        for entry in board.entries:
            assert f"<td>{entry.row.strategy}</td><td>{entry.row.budget}</td><td>{entry.row.value:.2f}</td>" in page
