"""Applying a strategy to a model, and leaving the model as it was."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from types import TracebackType

from torch import Tensor, nn

from fastadasp.engine import attention, checkpointing, hooks
from fastadasp.engine.compiled import without_compilation
from fastadasp.engine.encoder import EncoderSeen
from fastadasp.engine.encoding import EncoderWatch
from fastadasp.engine.session import Session
from fastadasp.engine.trace import Trace
from fastadasp.engine.wrappers import unwrapped
from fastadasp.errors import ModelError
from fastadasp.recipes.recipe import Recipe
from fastadasp.upstream.contracts import check_transformers

_applied: dict[int, Session] = {}
"""By the id of a decoder, what is applied to it."""


def apply_strategy(
    strategy: Recipe, model: nn.Module, *, spans: Tensor | None = None, encoder: EncoderSeen | None = None
) -> AbstractContextManager[Trace]:
    """Runs `model` with `strategy` for as long as the context is open; works with ``model(...)`` and ``generate``.

    Several threads may call the model meanwhile.

    Args:
        model: a transformers model of an installed family. On leaving, also by an exception, it is as it was.
        spans: int [B, T], which clip each prompt position belongs to (0: none). Needed only where the model is called
            with ``inputs_embeds``; otherwise audio tokens are found in ``input_ids``.
        encoder: what the audio encoder attended to. Needed only by strategies that need ``encoder``, where the model is
            called with ``inputs_embeds``; otherwise it is seen as the encoder runs.

    Raises:
        ModelError: on entering: the family is not supported, another strategy is already applied to the model, or the
            installed transformers works in another way than this package expects.
        StrategyError: on entering: the strategy does not fit the model.
    """
    return Application(strategy, model, spans, encoder)


class Application(AbstractContextManager[Trace]):
    """A strategy applied to a model for as long as the context is open.

    An interrupt (Ctrl-C) may come at any point of entering or leaving. So what is to be undone is found in the model
    itself and not in a list of what was done, undoing twice does no harm, and an application that nobody holds any
    more undoes itself.
    """

    def __init__(self, strategy: Recipe, model: nn.Module, spans: Tensor | None, encoder: EncoderSeen | None) -> None:
        self._given = strategy, model, spans, encoder
        self._encoder: EncoderWatch | None = None
        self._entered = False
        self._session: Session | None = None
        self._stance = ExitStack()

    def __enter__(self) -> Trace:
        try:
            return self._open()
        except BaseException:
            self._close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            try:
                if error is not None and self._session is not None:
                    self._session.advise(error)
            finally:
                self._close()
        finally:
            self._close()

    def __del__(self) -> None:
        self._close()

    def _open(self) -> Trace:
        if self._entered:
            raise ModelError("this context was entered before; call apply() for each `with`")
        self._entered = True
        check_transformers()
        strategy, model, spans, encoder = self._given
        if strategy.budget.over_run:
            strategy.budget.ratio_for(strategy.schedule, 0, 1)  # which refuses it in words
        model = unwrapped(model)
        session = Session(strategy, model, spans, encoder)
        if encoder is None and "encoder" in strategy.needs():
            self._encoder = EncoderWatch(session)
        self._session = session
        if _applied.setdefault(id(session.decoder), session) is not session:
            raise ModelError(
                f"a strategy is already applied to this {type(model).__name__}; leave its context before entering "
                "another"
            )
        self._stance.enter_context(without_compilation(model))
        attention.watch(session, session.config, session.watchers())
        if self._encoder is not None:
            self._encoder.begin()
        session.hook()
        return session.trace

    def _close(self) -> None:
        session = self._session
        if session is None or _applied is None:  # which it is while Python shuts down
            return
        try:
            self._undo(session)
        except BaseException:
            self._undo(session)
            raise
        self._session = None

    def _undo(self, session: Session) -> None:
        session.layer_hooks.stay()
        hooks.remove(session, session.modules())
        checkpointing.restore(session)
        attention.unwatch(session, session.config)
        if self._encoder is not None:
            self._encoder.end()
        self._stance.close()
        # last: it says that there is nothing left to undo
        if _applied.get(id(session.decoder)) is session:
            del _applied[id(session.decoder)]
