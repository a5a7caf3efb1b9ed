"""Reports: what stands on the page is what stands in the runs' files, and nothing on it is anybody's markup."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from command import run
from report_page import Page, recording

import fastadasp
from fastadasp.demo import model_path
from fastadasp.inference.clips import encode, read_clip
from fastadasp.inference.load import load_model
from fastadasp.report.plots import legend_beside
from fastadasp.report.timeline import BANDS, follow_tokens, spectrogram
from fastadasp.strategy import get_registry, load_strategy

DOCS = Path(__file__).parent.parent / "docs"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A comparison and a study."""
    folder = tmp_path_factory.mktemp("runs")
    usual = ("--tasks", "er", "--limit", "5", "--budgets", "0.3,0.6")
    assert run("compare", "--strategies", "weighted,prune", "--output", str(folder / "a"), *usual)[0] == 0
    study = ("--weight", "none,received-attention", "--layers", "1,4", "--store", str(folder / "store"))
    assert run("ablate", *study, "--output", str(folder / "b"), *usual)[0] == 0
    return folder / "a", folder / "b"


@pytest.fixture
def copy(runs: tuple[Path, Path], tmp_path: Path) -> Path:
    """The comparison, to be damaged."""
    return Path(shutil.copytree(runs[0], tmp_path / "run"))


def page(*arguments: str, output: Path) -> Page:
    code, told = run("report", *arguments, "--output", str(output))
    assert code == 0, told
    return Page(output.read_text(encoding="utf-8"))


def rows(folder: Path, name: str = "results.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def both(runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of both runs."""
    output = tmp_path_factory.mktemp("page") / "deep" / "report.html"
    return page(*map(str, runs), "--clips", "3", "--timelines", "1", output=output)


def test_the_page_needs_nothing_beside_it(both: Page) -> None:
    assert both.links
    assert all(link.startswith(("#", "data:")) for link in both.links)
    assert both.tags.count("link") == 1  # the icon
    assert {"iframe", "object", "embed", "img"}.isdisjoint(both.tags)


def test_tables_have_the_figures_of_the_files(both: Page, runs: tuple[Path, Path]) -> None:
    (table,) = [table for table in both.tables if table[0][1] == "strategy"]
    head, lines = table[0], table[1:]
    shown = [dict(zip(head, line, strict=True)) for line in lines]
    cells = [cell for folder in runs for cell in rows(folder)]
    assert len(shown) == len(cells) == 5 + 9
    for line, cell in zip(shown, cells, strict=True):
        assert line["strategy"].split(" (")[0] == cell["strategy"]
        value = f"{cell['metrics']['accuracy']:.2f}"
        if cell["interval"] is None:
            assert line["accuracy"] == value
        else:
            assert line["accuracy"].startswith(f"{value} (")
        assert line["FLOPs removed"] == f"{cell['efficiency']['flops_removed']:.1%}"
    for line, told in zip(shown[5:], rows(runs[1], "statistics.jsonl"), strict=True):
        assert line["rank"] == ("" if told["rank"] is None else str(told["rank"]))
        if told["difference"] is not None:
            span = told["difference_interval"]
            assert (span is None) == (len(rows(runs[1], "predictions.jsonl")) / 9 < 20)
            shown_span = "" if span is None else f" ({span[0]:.2f} to {span[1]:.2f})"
            assert line["difference"] == f"{told['difference']:+.2f}{shown_span}"
            assert line["win/tie/loss"] == f"{told['wins']}/{told['ties']}/{told['losses']}"


def test_a_comparison_gets_the_statistics_of_a_study(both: Page, runs: tuple[Path, Path]) -> None:
    """The same cells in both: the same interval, difference, counts."""
    recipe = load_strategy("weighted")
    assert recipe.weight is not None
    name = f"weighted (weight={recipe.weight.name}, layers={recipe.layers.start_layer(10)})"
    same = [x for x in both.data["lines"] if x["name"] in ("full", name)]
    mine = [x for x in both.data["lines"] if x["run"] == "A" and x["strategy"] in ("full", "weighted")]
    assert len(mine) == 3
    for one in mine:
        other = next(x for x in same if x["run"] == "B" and x["budget"] == one["budget"])
        assert (one["value"], one["interval"]) == (other["value"], other["interval"])


def test_clips_can_be_heard_and_read(both: Page, runs: tuple[Path, Path]) -> None:
    clips = both.data["clips"]
    assert [clip["run"] for clip in clips] == ["A"] * 3 + ["B"] * 3
    assert [clip["differ"] for clip in clips[:3]] == sorted((clip["differ"] for clip in clips[:3]), reverse=True)
    told = {(p["id"], p["strategy"], str(p["budget"])): p["prediction"] for p in rows(runs[0], "predictions.jsonl")}
    for clip in clips[:3]:
        for line, answer in clip["answers"].items():
            about = both.data["lines"][int(line)]
            budget = "None" if about["budget"] == "-" else about["budget"]
            assert told[clip["id"], about["strategy"], budget] == answer
        wave, rate = soundfile.read(io.BytesIO(base64.b64decode(clip["sound"].partition(",")[2])))
        assert len(wave) / rate == pytest.approx(clip["seconds"], abs=0.05)
        assert np.abs(wave).max() > 0.01


def test_timelines_show_what_layers_did(both: Page) -> None:
    lines, seen = both.data["lines"], set()
    for clip, line, followed in both.data["timelines"]:
        about, tokens = lines[line], followed["tokens"]
        assert about["budget"] == "0.6"
        assert both.data["clips"][clip]["picture"].startswith("data:image/png;base64,")
        ((layer, clusters),) = followed["layers"]
        assert len(clusters) == tokens
        left = {cluster for cluster in clusters if cluster >= 0}
        assert len(left) == tokens - round(0.6 * tokens) or abs(len(left) - 0.4 * tokens) <= 1
        dropped = clusters.count(-1)
        assert dropped == (tokens - len(left) if about["strategy"] == "prune" else 0)
        kept = [cluster for cluster in clusters if cluster >= 0]
        assert kept == sorted(kept)  # neighbours join: clusters are runs
        assert layer == int(about["axes"].get("layers", 1))
        seen.add((about["run"], about["name"]))
    assert len(seen) == 2 + 4


def test_assignments_follow_every_layer() -> None:
    """Clusters of a layer are those of the layer before, joined; counts are those of the trace."""
    loaded = load_model(str(model_path()))
    example = get_registry().get("task", "er").examples(1)[0]
    clip = encode(loaded, [example], [read_clip(example, loaded)])[0]
    timeline = follow_tokens(loaded, load_strategy("fastadasp-dense", budget=0.5), clip)
    assert timeline.tokens == clip.audio_tokens
    assert len(timeline.layers) > 5
    before: list[int] = list(range(timeline.tokens))
    for layer, clusters in timeline.layers.items():
        assert len(set(clusters)) == timeline.trace[layer].audio_tokens
        joined = dict(zip(before, clusters, strict=True))
        assert [joined[cluster] for cluster in before] == clusters  # nobody left a cluster
        before = clusters


def test_a_tone_stands_where_it_sounds() -> None:
    rate = 16_000
    time = np.arange(2 * rate) / rate
    wave = (0.5 * np.sin(2 * np.pi * 1000 * time) * (time > 1)).astype(np.float32)
    picture = spectrogram(wave, rate)
    assert picture.shape[0] == BANDS
    assert picture[:, : picture.shape[1] * 45 // 100].max() < 0.2
    mel = 2595 * np.log10(1 + np.array([1000, 8000]) / 700)
    assert abs(picture[:, -20].argmax() - BANDS * mel[0] / mel[1]) <= 2


def test_text_from_runs_is_no_markup(copy: Path, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><b onclick=x>&amp;"
    path = copy / "predictions.jsonl"
    lines = rows(copy, "predictions.jsonl")
    for line in lines:
        line["prediction"] = line["reference"] = evil
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    about = json.loads((copy / "run.json").read_text())
    about["device_name"] = evil
    (copy / "run.json").write_text(json.dumps(about))
    shown = page(str(copy), "--timelines", "0", output=tmp_path / "r.html")
    assert shown.tags.count("script") == 2
    assert not any(clip["sound"] is None for clip in shown.data["clips"])
    assert all(set(clip["answers"].values()) == {evil} for clip in shown.data["clips"])
    assert evil not in (tmp_path / "r.html").read_text()


def test_runs_of_different_versions_are_marked(runs: tuple[Path, Path], copy: Path, tmp_path: Path) -> None:
    about = json.loads((copy / "run.json").read_text())
    about["versions"]["torch"] = "2.8.0"
    (copy / "run.json").write_text(json.dumps(about))
    code, told = run("report", str(runs[0]), str(copy), "--timelines", "0", "--output", str(tmp_path / "r.html"))
    assert code == 0
    assert "the runs differ in torch: " in told
    assert 'class="differs"' in (tmp_path / "r.html").read_text()
    same = run("report", str(runs[0]), str(runs[1]), "--timelines", "0", "--output", str(tmp_path / "s.html"))
    assert "the runs differ" not in same[1]


def test_tables_for_other_programs(runs: tuple[Path, Path], tmp_path: Path) -> None:
    for suffix in ("md", "csv", "tex"):
        assert run("report", *map(str, runs), "--output", str(tmp_path / f"t.{suffix}"))[0] == 0
    cells = [cell for folder in runs for cell in rows(folder)]
    found = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text())))
    assert [float(line["value"]) for line in found] == [cell["metrics"]["accuracy"] for cell in cells]
    assert [float(line["flops_removed"]) for line in found] == [cell["efficiency"]["flops_removed"] for cell in cells]
    assert (tmp_path / "t.md").read_text().count("\n| ") == len(cells) + 1
    tex = (tmp_path / "t.tex").read_text()
    assert tex.count(r" \\") == len(cells) + 1
    assert not re.search(r"(?<!\\)%(?! er)", tex)


def test_plots_are_drawn(runs: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = (
        "--timelines",
        "0",
        "--clips",
        "0",
        "--output",
        str(tmp_path / "r.html"),
        "--plots",
        str(tmp_path / "p"),
    )
    assert run("report", str(runs[0]), *arguments)[0] == 0
    names = sorted(path.name for path in (tmp_path / "p").iterdir())
    assert names == sorted(f"er-{cost}.{kind}" for cost in ("flops", "kv", "whole") for kind in ("png", "svg"))
    assert "weighted" in (tmp_path / "p" / "er-flops.svg").read_text()


def test_a_long_legend_leaves_the_axes_their_size() -> None:
    """36 strategies in one plot: the figure grows, and the curves are not squeezed into a strip."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for number in range(36):
        axes.plot([0, 1], [number, number], label=f"the model: strategy ${number}")
    legend_beside(axes, 36)
    figure.draw_without_rendering()
    assert axes.get_position().height * figure.get_figheight() > 3


def test_a_run_that_was_cut_short_is_reported_as_far_as_it_came(copy: Path, tmp_path: Path) -> None:
    text = (copy / "results.jsonl").read_text().splitlines(keepends=True)
    (copy / "results.jsonl").write_text("".join(text[:3]) + text[3][:40])
    about = json.loads((copy / "run.json").read_text()) | {"status": "running", "finished": None}
    (copy / "run.json").write_text(json.dumps(about))
    code, told = run("report", str(copy), "--timelines", "0", "--output", str(tmp_path / "r.html"))
    assert code == 0
    assert "the last line of results.jsonl is not complete" in told
    assert "was killed" in told
    assert len(Page((tmp_path / "r.html").read_text()).data["lines"]) == 3


def test_without_predictions_the_figures_stay(copy: Path, tmp_path: Path) -> None:
    (copy / "predictions.jsonl").unlink()
    code, told = run("report", str(copy), "--output", str(tmp_path / "r.html"))
    assert code == 0
    assert "predictions.jsonl is missing" in told
    shown = Page((tmp_path / "r.html").read_text()).data
    assert len(shown["lines"]) == 5
    assert shown["clips"] == []


def test_a_metric_that_is_no_number_has_no_point(copy: Path, tmp_path: Path) -> None:
    lines = rows(copy)
    lines[1]["metrics"]["accuracy"] = float("nan")
    (copy / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = page(str(copy), "--timelines", "0", output=tmp_path / "r.html")
    assert [line["value"] is None for line in shown.data["lines"]] == [False, True, False, False, False]


def damage(copy: Path, what: str) -> None:
    lines = (copy / "results.jsonl").read_text().splitlines(keepends=True)
    about = json.loads((copy / "run.json").read_text())
    if what == "broken line":
        (copy / "results.jsonl").write_text("".join([*lines[:2], '{"strategy": 3\n', *lines[2:]]))
    elif what == "wrong key":
        (copy / "results.jsonl").write_text("".join([*lines[:2], lines[2].replace('"budget"', '"bugdet"')]))
    elif what == "newer":
        about["versions"]["fastadasp"], about["colour"] = "99.0", "blue"
        (copy / "run.json").write_text(json.dumps(about))
    elif what == "newer line":
        about["versions"]["fastadasp"] = "99.0"
        (copy / "run.json").write_text(json.dumps(about))
        (copy / "results.jsonl").write_text(lines[0].replace('{"', '{"colour": 1, "', 1))
    elif what == "not text":
        (copy / "predictions.jsonl").write_bytes(b"\xff\xfe\x00")
    elif what == "no run":
        (copy / "run.json").unlink()
    elif what == "nothing finished":
        (copy / "results.jsonl").write_text("")
    elif what == "no results":
        (copy / "results.jsonl").unlink()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("broken line", r"results\.jsonl, line 3 is damaged"),
        ("wrong key", r"results\.jsonl, line 3 is damaged: budget"),
        ("newer", r"run\.json was written by fastadasp 99\.0, and this is .*; update"),
        ("newer line", r"results\.jsonl, line 1 was written by fastadasp 99\.0"),
        ("not text", r"predictions\.jsonl is damaged: it is not UTF-8"),
        ("no run", r"is not the folder of a run: it has neither run\.json nor study\.json"),
        ("nothing finished", "has no finished cell yet"),
        ("no results", r"has no results\.jsonl"),
    ],
)
def test_damaged_runs_are_refused_by_name(what: str, words: str, copy: Path, tmp_path: Path) -> None:
    damage(copy, what)
    code, told = run("report", str(copy), "--output", str(tmp_path / "r.html"))
    assert code == 2
    assert re.search(words, told), told
    assert told.count("error:") == 1
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{run}/nowhere",), "nowhere does not exist"),
        (("{run}/run.json",), "run.json is a file"),
        (("{run}", "--output", "r.docx"), r"ends in '\.docx'; write \.html, \.md, \.csv, \.tex"),
        (("{run}", "--output", "{run}.html/x.html"), "cannot be written"),
        (("{run}", "--clips", "-1"), "--clips is a number of clips, at least 0, not -1"),
        ((), "Missing argument"),
    ],
)
def test_wrong_arguments(arguments: tuple[str, ...], words: str, copy: Path) -> None:
    copy.with_suffix(".html").write_text("a file where a folder should be")
    code, told = run("report", *(word.format(run=copy) for word in arguments))
    assert code == 2
    assert re.search(words, " ".join(told.split())), told


def test_the_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recording(tmp_path)
    commands = re.findall(r"^    fastadasp (.+)$", (DOCS / "report.md").read_text(), re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        assert run(*shlex.split(command))[0] == 0
    assert (tmp_path / "runs" / "first" / "report.html").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_script_runs_in_a_browser(runs: tuple[Path, Path], tmp_path: Path) -> None:
    page(*map(str, runs), "--clips", "2", "--timelines", "1", output=tmp_path / "r.html")
    dom = in_a_browser(tmp_path / "r.html")
    assert dom.count("<circle") + dom.count("<polygon") >= 14
    assert 'class="heat"' in dom
    assert dom.count('class="clip"') == 2
    assert "tokens left" in dom


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_front_is_drawn_where_cheaper_is_worse(tmp_path: Path) -> None:
    lossy = ("--strategies", "prune", "--tasks", "asr-72", "--limit", "4", "--budgets", "0.3,0.6")
    assert run("compare", *lossy, "--output", str(tmp_path / "lossy"))[0] == 0
    page(str(tmp_path / "lossy"), output=tmp_path / "r.html")
    assert 'class="front"' in in_a_browser(tmp_path / "r.html")


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_a_front_passes_no_point_that_another_beats(tmp_path: Path) -> None:
    """Of equal cost the best counts, whichever comes first."""
    script = (Path(fastadasp.__file__).parent / "report" / "templates" / "page.js").read_text()
    front = script[script.index("function frontOf") :].partition("\n}\n")[0] + "\n}\n"
    for better, values, wanted in (("up", [60, 70, 80], [70, 80]), ("down", [9, 7, 5], [7, 5])):
        lines = [{"better": better, "flops": f, "value": v} for f, v in zip((0.5, 0.5, 0.2), values, strict=True)]
        call = f"console.log(JSON.stringify(frontOf({json.dumps(lines)}, 'flops', false).map((line) => line.value)))"
        out = subprocess.run(["node", "-e", front + call], capture_output=True, text=True, check=True)
        assert json.loads(out.stdout) == wanted


def in_a_browser(file: Path) -> str:
    """The page as it stands once its script has run."""
    flags = ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-sync")
    words = [
        str(CHROMIUM),
        *(f"--{flag}" for flag in flags),
        f"--user-data-dir={file.parent / 'user'}",
        "--virtual-time-budget=3000",
    ]
    done = subprocess.run([*words, "--dump-dom", f"file://{file}"], capture_output=True, text=True, timeout=120)
    return done.stdout


def changed(folder: Path, tmp_path: Path, file: str, line: int, **values: Any) -> Path:
    """A copy of a run with other values in one line of a file."""
    copy = Path(shutil.copytree(folder, tmp_path / f"{file}-{len(list(tmp_path.iterdir()))}"))
    lines = (copy / file).read_text().split("\n")
    if file == "run.json":
        (copy / file).write_text(json.dumps(json.loads((copy / file).read_text()) | values))
        return copy
    lines[line] = json.dumps(json.loads(lines[line]) | values)
    (copy / file).write_text("\n".join(lines))
    return copy


def test_a_table_for_a_paper(runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "t.tex"
    given = ("--columns", "strategy,budget,value,flops", "--caption", "50 % & more_of it", "--label", "er")
    assert run("report", str(runs[0]), "--output", str(out), *given)[0] == 0
    text = out.read_text()
    assert r"\caption{50 \% \& more\_of it}" in text
    assert r"\label{tab:er}" in text
    assert r"strategy & budget & accuracy & FLOPs removed \\" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1
    cells = rows(runs[0])
    best: dict[Any, float] = {}
    for cell in cells:
        if cell["budget"] is not None:
            best[cell["budget"]] = max(best.get(cell["budget"], 0.0), cell["metrics"]["accuracy"])
    wanted = sum(cell["budget"] is not None and cell["metrics"]["accuracy"] == best[cell["budget"]] for cell in cells)
    assert text.count(r"\textbf{") == wanted > 0
    assert not re.search(r"\\textbf", text.split(r"\midrule")[1].split("\n")[1])  # the full model is no rival


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--output", "t.csv", "--columns", "value"), "--columns has no effect on t.csv; it is for .md and .tex"),
        (("--output", "t.csv", "--clips", "5"), "--clips has no effect on t.csv"),
        (("--output", "t.md", "--caption", "x"), "--caption has no effect on t.md; it is for .tex"),
        (("--output", "t.tex", "--title", "x"), "--title has no effect on t.tex"),
        (("--output", "t.md", "--columns", "prize"), "there is no column 'prize'; there are strategy, budget"),
        (("--output", "t.md", "--columns", ","), "--columns names no column"),
    ],
)
def test_options_of_tables_that_mean_nothing(
    runs: tuple[Path, Path], given: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, told = run("report", str(runs[0]), *given)
    assert code == 2
    assert message in told
    assert not list(tmp_path.iterdir())


HARM = "<script>alert(1)</script>|[red]\n=1+1"


def test_what_a_runs_files_hold_is_text_in_every_table(runs: tuple[Path, Path], tmp_path: Path) -> None:
    for number, name in enumerate(("strategy", "task", "budget")):
        copy = changed(runs[0], tmp_path, "results.jsonl", 1, **{name: HARM})
        for suffix in ("md", "tex", "html"):
            out = tmp_path / f"{number}.{suffix}"
            code, told = run("report", str(copy), "--output", str(out), "--timelines", "0", "--clips", "0")
            assert (code, "Traceback" in told) == (0, False), told
            text = out.read_text()
            assert suffix == "tex" or "<script>alert" not in text  # where it stands in a comment, and is no script
            assert suffix != "md" or "|[red]" not in text.replace("\\|", "")
    copy = changed(runs[0], tmp_path, "results.jsonl", 1, strategy="=cmd|'/C calc'!A0", error="@SUM(1)")
    assert run("report", str(copy), "--output", str(tmp_path / "t.csv"))[0] == 0
    cells = [cell for line in csv.reader(io.StringIO((tmp_path / "t.csv").read_text())) for cell in line]
    assert "'=cmd|'/C calc'!A0" in cells
    assert not [cell for cell in cells if cell[:1] in ("=", "@", "\t")]
    assert "-" in cells  # the full model's budget is no formula


def test_damaged_runs_are_told_in_one_sentence(runs: tuple[Path, Path], tmp_path: Path) -> None:
    for copy, message in (
        (changed(runs[0], tmp_path, "results.jsonl", 1, metrics={}), "has no metric 'accuracy'"),
        (changed(runs[0], tmp_path, "results.jsonl", 1, efficiency={"flops_removed": 10**400}), "of more digits than"),
    ):
        code, told = run("report", str(copy), "--output", str(tmp_path / "t.md"))
        assert (code, message in told, len(told.strip().splitlines())) == (2, True, 1), told
    copy = changed(runs[0], tmp_path, "run.json", 0, status="\ud800")
    for suffix in ("md", "html"):  # refused or shown, with a sign in its place
        code, told = run("report", str(copy), "--output", str(tmp_path / f"t.{suffix}"), "--timelines", "0")
        assert (code in (0, 2), "Traceback" in told) == (True, False), told
    (copy / "run.json").write_text("[" * 60_000)
    code, told = run("report", str(copy), "--output", str(tmp_path / "t.md"))
    assert (code, "Traceback" in told, len(told.strip().splitlines())) == (2, False, 1)


def test_title_notes_and_the_model_by_name(runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    given = ("--title", "Emotion <b>", "--note", "Made for a talk.", "--note", "Second.", "--timelines", "0")
    assert run("report", str(runs[0]), "--output", str(out), *given)[0] == 0
    page = out.read_text()
    assert "<title>Emotion &lt;b&gt;</title>" in page
    assert page.index("Made for a talk.") < page.index("Second.")
    assert "embedded model (" in page
    assert run("report", str(runs[0]), "--output", str(out), "--timelines", "0", "--clips", "0")[0] == 0
    assert f"<h1>fastadasp: {runs[0].name}</h1>" in out.read_text()


def test_the_legend_of_a_recording_shows_what_is_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    from fastadasp.report import inspection
    from fastadasp.report.clips import Clip
    from fastadasp.report.timeline import Timeline

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self))
    wave = np.zeros(16000, dtype=np.float32)
    clip = Clip(0, "", "a", "a.wav", "", {}, 0, None, wave, None)
    for clusters, names in (([0, 0, 1, 2], ["alone", "merged"]), ([0, -1, 1, 2], ["dropped", "alone"])):
        one = Timeline(4, {1: clusters}, [])
        inspection.draw(inspection.Inspection(clip, [load_strategy("weighted")], [one], ""), tmp_path / "x.png")
        assert [text.get_text() for text in drawn[-1].legends[0].get_texts()] == names
