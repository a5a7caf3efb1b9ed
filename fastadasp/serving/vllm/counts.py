"""Audio tokens of requests before and after the strategy: a line in the log, and counters for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter

from fastadasp.serving.vllm.private import logger

_COUNTER = Counter(
    "fastadasp_audio_tokens", "Audio tokens of the prompts, before and after the strategy.", labelnames=("stage",)
)


def record(before: int, after: int) -> None:
    """Counts one request's clips."""
    _COUNTER.labels("before").inc(before)
    _COUNTER.labels("after").inc(after)
    logger.info("fastadasp: %d audio tokens of a prompt became %d", before, after)
