"""The Triton kernels give what torch gives: in Triton's interpreter without a GPU, compiled with one.

Triton must know before it is imported that it shall interpret, so this file runs itself once more with
``TRITON_INTERPRET=1``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fastadasp
from fastadasp.contracts.token_plan import TokenPlan
from fastadasp.engine.adjacent import cosine_to_next_key
from fastadasp.engine.received import received_attention
from fastadasp.engine.spans import AudioSpans, find_spans
from fastadasp.engine.stream import Stream, apply_plan
from fastadasp.kernels import kernels_for

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
DTYPES = [torch.float32, torch.bfloat16]


def kernel_test(test: Callable[..., None]) -> Callable[..., None]:
    """Runs in the interpreter, and on a GPU; the ordinary run of a machine without one leaves it out."""
    if INTERPRETED:
        return test
    return pytest.mark.cuda(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")(test))


@pytest.mark.skipif(INTERPRETED, reason="this is that run")
def test_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    run = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(Path(__file__))]
    done = subprocess.run(run, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
    assert "failed" not in done.stdout


def both(monkeypatch: pytest.MonkeyPatch, compute: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """What the kernels give, and what torch gives."""
    out = []
    for choice in ("triton", "torch"):
        monkeypatch.setenv("FASTADASP_KERNELS", choice)
        out.append(compute())
    return out[0], out[1]


def error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def spans_of(*rows: str) -> AudioSpans:
    """Rows like ``..1111.22``: a digit is an audio token of that clip."""
    return find_spans(torch.tensor([[int(c) if c.isdigit() else 0 for c in row] for row in rows]).to(DEVICE), None)


@kernel_test
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("past", "share", "which"), [(0, 1.0, "strided"), (9, 1.0, "strided"), (9, 0.3, "last")])
@pytest.mark.parametrize(("heads", "groups", "dim"), [(4, 2, 24), (3, 3, 16)])
def test_received_attention(
    heads: int, groups: int, dim: int, past: int, share: float, which: str, padded: bool, dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    spans = spans_of("." * 5 + "1" * 70 + "." * 3, "." * 30 + "1" * 9 + "." * 9 + "2" * 30)
    length = 78
    query = torch.randn(2, heads, length, dim, device=DEVICE, dtype=dtype)
    key = torch.randn(2, past + length, groups, dim, device=DEVICE, dtype=dtype).transpose(1, 2)
    valid = None
    if padded:
        valid = torch.ones(2, past + length, dtype=torch.bool, device=DEVICE)
        valid[1, : past + 21] = False
    ours, theirs = both(
        monkeypatch,
        lambda: received_attention(query, key, 0.3, valid, spans=spans, share=share, which=which),  # type: ignore[arg-type]
    )
    real = spans.columns()[1]
    assert error(ours[real], theirs[real]) <= TOLERANCE[dtype]
    assert ours.dtype == torch.float32
    assert not bool(ours[~real].any())
    monkeypatch.setenv("FASTADASP_KERNELS", "triton")
    again = received_attention(query, key, 0.3, valid, spans=spans, share=share, which=which)  # type: ignore[arg-type]
    assert torch.equal(again, ours)


@kernel_test
@pytest.mark.parametrize("dtype", DTYPES)
def test_cosine_to_the_next_key(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    spans = spans_of("..1111111111111111111111.", "1...222222222222222333333")
    key = torch.randn(2, 3, 25, 20, device=DEVICE, dtype=dtype)
    ours, theirs = both(monkeypatch, lambda: cosine_to_next_key(key, spans))
    real = spans.columns()[1][:, 1:]
    assert ours.shape == theirs.shape
    assert error(ours[real], theirs[real]) <= TOLERANCE[dtype]
    lone = spans_of("..1..")
    assert cosine_to_next_key(key[:1, :, :5], lone).shape == (1, 0)


@kernel_test
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [5, 2050])
def test_means_of_clusters(channels: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    spans = spans_of(".1111111111.", "..111...2222")
    valid = torch.ones(2, 12, dtype=torch.bool, device=DEVICE)
    valid[1, 0] = False
    cluster = torch.full((3, 10), -1)
    cluster[0], cluster[1, :3] = torch.tensor([0, 1, 1, 2, -1, 2, 3, 3, 3, 3]), torch.tensor([0, 1, 1])
    cluster[2, :4] = 0
    plan = TokenPlan(cluster.to(DEVICE), torch.rand(3, 10, device=DEVICE))
    stream = Stream((12, 11), 12, valid, spans)
    states = torch.randn(2, 12, channels, device=DEVICE, dtype=dtype)
    ours, theirs = both(monkeypatch, lambda: apply_plan(stream, plan, (4, 2, 1))[0].reduce(states))
    assert ours.dtype == dtype
    assert ours.shape == theirs.shape == (2, 7, channels)
    assert error(ours, theirs) <= TOLERANCE[dtype]
    assert torch.equal(ours[0, 1], states[0, 0])  # text is copied


@kernel_test
def test_a_model_reduced_by_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny import text_model

    model = text_model().to(DEVICE)
    embeds = torch.randn(2, 40, 32, device=DEVICE)
    spans = torch.zeros(2, 40, dtype=torch.int64, device=DEVICE)
    spans[0, 3:35], spans[1, 10:22], spans[1, 30:38] = 1, 1, 2
    mask = torch.ones(2, 40, dtype=torch.int64, device=DEVICE)
    mask[1, :6] = 0

    @torch.no_grad()
    def run() -> Tensor:
        with fastadasp.load_strategy("fastadasp-dense", budget=0.5).apply(model, spans=spans):
            logits: Tensor = model(inputs_embeds=embeds, attention_mask=mask).logits[:, -1]
        return logits

    try:
        assert error(*both(monkeypatch, run)) <= 1e-4
    finally:
        model.to("cpu")


@kernel_test
@pytest.mark.skipif(INTERPRETED, reason="there is no device to wait for")
def test_a_prompt_waits_for_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the plain model: finding the audio spans, and nothing else."""
    from tiny import text_model

    monkeypatch.delenv("FASTADASP_KERNELS", raising=False)
    model = text_model().to(DEVICE)
    embeds = torch.randn(2, 40, 32, device=DEVICE)
    spans = torch.zeros(2, 40, dtype=torch.int64, device=DEVICE)
    spans[:, 3:35] = 1
    mask = torch.ones(2, 40, dtype=torch.int64, device=DEVICE)

    @torch.no_grad()
    def waits() -> int:
        model(inputs_embeds=embeds, attention_mask=mask)  # kernels are compiled in a first pass
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model(inputs_embeds=embeds, attention_mask=mask)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in caught)

    try:
        plain = waits()
        for name in ("weighted", "prune", "fastadasp-dense", "fastadasp-decay"):
            with fastadasp.load_strategy(name, budget=0.5).apply(model, spans=spans):
                assert waits() - plain <= 1, name
    finally:
        model.to("cpu")


@pytest.mark.skipif(INTERPRETED, reason="an interpreted kernel is not compiled")
@pytest.mark.parametrize("kernel", ["_normalisers", "_column_sums", "_cosines", "_means"])
def test_kernels_compile_for_a_gpu(kernel: str) -> None:
    """Down to machine code of compute capability 9.0; Triton brings the assembler, so no GPU is needed."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from fastadasp.kernels import triton_kernels

    function = getattr(triton_kernels, kernel)
    pointers = {"own": "*i64", "counted": "*i1", "valid": "*i1", "norm": "*fp32", "share": "*fp32", "token": "*i64"}
    pointers |= {"start": "*i64", "sample_of": "*i64", "start_of": "*i64", "count_of": "*i64", "scale": "fp32"}
    pointers |= dict.fromkeys(("query", "key", "states"), "*bf16") | {"out": "*bf16" if kernel == "_means" else "*fp32"}
    sizes = {"ROWS": 64, "KEYS": 64, "DIM": 128, "BLOCK": 16, "PADDED": True, "WIDE": False}
    names = function.arg_names
    signature = {name: "constexpr" if name in sizes else pointers.get(name, "i32") for name in names}
    constants = {(names.index(name),): value for name, value in sizes.items() if name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = triton.compile(ASTSource(function, signature, constants), target=GPUTarget("cuda", 90, 32))
    assert compiled.asm["cubin"]


# ---- the choice ----


def test_torch_serves_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTADASP_KERNELS", raising=False)
    assert kernels_for(torch.zeros(1)) is None
    monkeypatch.setenv("FASTADASP_KERNELS", "torch")
    assert kernels_for(torch.zeros(1, device="cuda") if torch.cuda.is_available() else torch.zeros(1)) is None


def test_gradients_go_through_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTADASP_KERNELS", "triton")
    assert kernels_for(torch.zeros(1, requires_grad=True)) is None


def test_an_unknown_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTADASP_KERNELS", "tritn")
    with pytest.raises(fastadasp.errors.RunError, match="auto, torch, triton"):
        kernels_for(torch.zeros(1))


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastadasp.kernels._triton_is_there", lambda: False)
    monkeypatch.setenv("FASTADASP_KERNELS", "triton")
    with pytest.raises(fastadasp.errors.RunError, match="not installed"):
        kernels_for(torch.zeros(1))
    monkeypatch.setenv("FASTADASP_KERNELS", "auto")
    assert kernels_for(torch.zeros(1)) is None


@pytest.mark.skipif(INTERPRETED, reason="the interpreter is asked for the kernels")
def test_a_cpu_never_loads_the_kernels() -> None:
    code = (
        "import sys, torch; from fastadasp.engine.received import received_attention as scores; "
        "from fastadasp.engine.spans import find_spans; x = torch.randn(1, 2, 4, 8); "
        "scores(x, x, 1.0, spans=find_spans(torch.ones(1, 4, dtype=torch.int64), None)); "
        "print('fastadasp.kernels.triton_kernels' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
