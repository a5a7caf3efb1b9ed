"""What notebooks show: tables of strategies, traces and transcripts, in which everything is text."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import ONE, audio_model, batch, strategy

import fastadasp
from fastadasp.display import html_table, signed
from fastadasp.engine.trace import Trace
from fastadasp.transcribe.speech_model import Segment, Transcript


def test_cells_are_text() -> None:
    shown = html_table("<b>", ("<i>",), [("<script>", 1)])
    assert shown.count("<table>") == shown.count("</table>") == 1
    for word in ("<b>", "<i>", "<script>"):
        assert word not in shown
        assert word.replace("<", "&lt;").replace(">", "&gt;") in shown


@pytest.mark.parametrize(("value", "text"), [(-0.04, "+0.0"), (0.04, "+0.0"), (-0.06, "-0.1"), (12.34, "+12.3")])
def test_a_difference_that_rounds_to_nothing_has_no_minus(value: float, text: str) -> None:
    assert signed(value) == text
    assert signed(value / 10, 2) == f"{text[0]}{float(text[1:]) / 10:.2f}"


def test_a_strategy_shows_its_parts() -> None:
    shown = fastadasp.load_strategy("weighted", budget=0.25, summary="<x>")._repr_html_()
    assert "<caption>strategy weighted: &lt;x&gt;</caption>" in shown
    for name, value in (("merger", "runs"), ("layers", "fixed (layer = 1)"), ("budget", "0.25"), ("site", "block")):
        assert f"<td>{name}</td><td>{value}</td>" in shown


def test_a_trace_shows_its_layers() -> None:
    assert "no prompt" in Trace()._repr_html_()
    model = audio_model()
    with strategy("weighted").apply(model) as trace:
        model(**batch(ONE))
    shown = trace._repr_html_()
    for layer in trace.layers:
        counts = (layer.layer, layer.tokens_in_per_sample[0], layer.tokens_out_per_sample[0], layer.audio_tokens)
        assert "".join(f"<td>{count}</td>" for count in counts) in shown


def test_a_transcript_shows_text_by_time() -> None:
    made = Transcript(Path("a<b>.wav"), (Segment(0.0, 1.5, "one"), Segment(1.5, 3.0, "<two>")), 40, 10)
    shown = made._repr_html_()
    assert "a&lt;b&gt;.wav, 3.0 s, 30 of 40 audio tokens removed" in shown
    assert "<td>0.0 to 1.5 s</td><td>one</td>" in shown
    assert "<td>&lt;two&gt;</td>" in shown


def test_losses_are_shown_above_the_best_with_unit_and_noise() -> None:
    choice = fastadasp.LayerChoice.least({0: -2.5, 1: -3.0, 2: -2.9}, unit="nats", noise=0.2)
    assert choice.above == {0: 0.5, 1: 0.0, 2: pytest.approx(0.1)}
    assert (choice.layer, choice.unit, choice.noise) == (1, "nats", 0.2)
    plain = fastadasp.LayerChoice.least({0: 1.0})
    assert (plain.unit, plain.noise) == ("the selector's unit", None)


def test_brackets_in_names_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    from fastadasp.cli.terminal import Bar, print_listing

    print_listing("title [/red]", ("a[/b]",), [["[/red] x [bold]y"]])
    shown = capsys.readouterr().out
    assert "title [/red]" in shown
    assert "[/red] x [bold]y" in shown
    with Bar() as bar:
        bar.update("task [/red]", 1, 2)
