"""An engine to test a plugin in, with its own folder and thread, and with the plugins you give it.

::

    with EngineHarness(tmp_path, {"my_store": MyStore}, settings={"core.store": "my_store"}) as harness:
        harness.feed(batch)
        harness.wait_for(lambda: harness.state().unsaved == 0)
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from importlib.metadata import EntryPoint
from pathlib import Path
from threading import Condition, Event, Thread
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from hl7core.contract import SourceRequest, SourceStats, State
from hl7core.engine.engine import Engine
from hl7core.engine.runtime import EngineRuntime
from hl7core.errors import InterfaceMissing
from hl7core.hookspecs import hookimpl
from hl7core.model.packet import Interface, PacketBatch
from hl7core.model.session import Session, SessionQuery
from hl7core.settings import reading
from hl7core.settings.file import change

__all__ = ["EngineHarness", "FakeSource", "entry_point_for"]

T = TypeVar("T")

FAKE_SOURCE: Final = "fake_source"
_PATIENCE: Final = 20.0


class FakeSource:
    """A PacketSource that emits the batches it is given until it is stopped or finished.

    With ``live`` false it ends by itself after the last batch.  When it ends by itself it raises ``error``, if given.
    """

    def __init__(
        self,
        batches: Iterable[PacketBatch] = (),
        *,
        name: str = "fake0",
        live: bool = True,
        error: Exception | None = None,
    ) -> None:
        self._name = name
        self._live = live
        self._error = error
        self._changed = Condition()
        self._batches = deque(batches)
        self._over = False
        self._stopped = False
        self._received = 0
        self._busy = False
        self.dropped = 0
        self.detail = ""

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    def feed(self, *batches: PacketBatch) -> None:
        """Emit ``batches``."""
        with self._changed:
            self._batches.extend(batches)
            self._changed.notify_all()

    def finish(self, error: Exception | None = None) -> None:
        """End after the last batch, raising ``error`` if given."""
        with self._changed:
            self._over = True
            self._error = error or self._error
            self._changed.notify_all()

    @property
    def idle(self) -> bool:
        """Whether every batch was emitted."""
        with self._changed:
            return not self._batches and not self._busy

    def run(self, emit: Callable[[PacketBatch], None]) -> None:
        """Emit batches until ``stop`` is called, or until there are no more."""
        with self._changed:
            self._stopped = False
        while True:
            with self._changed:
                self._busy = False
                while self._live and not (self._batches or self._stopped or self._over):
                    self._changed.wait()
                if not self._batches:
                    break
                batch = self._batches.popleft()
                self._busy = True
            emit(batch)
            self._received += batch.count
        if self._error is not None and not self._stopped:
            raise self._error

    def stop(self) -> None:
        """Make ``run`` return once the batches it has are emitted."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def stats(self) -> SourceStats:
        """Return how many packets it has emitted, with ``dropped`` and ``detail`` as set on it."""
        return SourceStats(received=self._received, dropped=self.dropped, detail=self.detail)

    def interfaces(self) -> Sequence[Interface]:
        """Return its one interface."""
        return [Interface(self._name)]


def entry_point_for(name: str, plugin: object) -> EntryPoint:
    """Return an entry point for ``plugin``: a class, or one object that is used again each time it is enabled."""
    kind = plugin if isinstance(plugin, type) else type(name, (), {"__new__": lambda _cls: plugin})
    return _GivenEntryPoint(name, kind)


class _GivenEntryPoint(EntryPoint):
    """An entry point of the group ``hl7core`` that is not installed."""

    def __init__(self, name: str, kind: type) -> None:
        super().__init__(name, f"{kind.__module__}:{kind.__qualname__}", "hl7core")
        vars(self)["_kind"] = kind

    def load(self) -> Any:
        """Return the class."""
        return vars(self)["_kind"]


class EngineHarness:
    """Runs an :class:`Engine` on a thread; a context manager.

    ``plugins`` are classes or objects by name.  They are enabled in ``folder/settings.toml``, and ``settings`` (by
    dotted key) are written there too.  A plugin ``fake_source`` with the FakeSource ``source`` is added unless given.
    """

    def __init__(
        self,
        folder: Path,
        plugins: Mapping[str, object] | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        request: SourceRequest | None = None,
        until_end: bool = False,
        source: FakeSource | None = None,
        **options: Any,
    ) -> None:
        self.folder = folder
        self.source = source or FakeSource(live=not (request and request.files))
        given: dict[str, object] = {FAKE_SOURCE: _fake_source_plugin(self.source), **(plugins or {})}
        self.path = folder / "settings.toml"
        folder.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            self.path.touch()
        changes = {f"plugins.{name}.enabled": True for name in given}
        change(self.path, {**changes, **(settings or {})})
        self._options = {"request": request, "until_end": until_end, "sensor": "test", **options}
        self._points = [entry_point_for(name, plugin) for name, plugin in given.items()]
        self._started = Event()
        self._failure: BaseException | None = None
        self._thread = Thread(target=self._run, name="engine-harness", daemon=True)
        self.engine: Engine

    @property
    def runtime(self) -> EngineRuntime:
        """The runtime that plugins get."""
        return self.engine.runtime

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
        if error is None:
            self.raise_failure()

    def start(self) -> None:
        """Start the engine; raises what prevents it from starting."""
        self._thread.start()
        if not self._started.wait(_PATIENCE):
            raise TimeoutError("the engine did not start in time")
        self.raise_failure()

    def stop(self) -> None:
        """Stop the engine and wait until it has stopped."""
        if self._thread.is_alive():
            self.engine.loop.call_soon_threadsafe(self.engine.request_stop)
        self.join()

    def join(self, timeout: float = _PATIENCE) -> None:
        """Wait until the engine ends.  Raises TimeoutError."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError("the engine did not end in time")

    def raise_failure(self) -> None:
        """Raise the error that the engine ended with, if any; once."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def feed(self, *batches: PacketBatch) -> None:
        """Emit packets from the fake source."""
        self.source.feed(*batches)

    def state(self) -> State:
        """Return the engine's state in numbers."""
        return self.engine.state()

    def call(self, coroutine: Coroutine[Any, Any, T], timeout: float = _PATIENCE) -> T:
        """Run ``coroutine`` on the engine's loop and return its result.  Raises TimeoutError."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self.engine.loop)
        return future.result(timeout)

    def sessions(self, query: SessionQuery | None = None) -> list[Session]:
        """Return the matching sessions, stored or not."""
        return self.call(self.runtime.sessions(query or SessionQuery()))

    def wait_for(self, done: Callable[[], object], timeout: float = _PATIENCE) -> None:
        """Wait until ``done`` returns true.  Raises TimeoutError."""
        until = time.monotonic() + timeout
        while not done():
            if time.monotonic() > until:
                raise TimeoutError("the condition did not become true in time")
            time.sleep(0.005)

    def wait_decoded(self, timeout: float = _PATIENCE) -> None:
        """Wait until every packet fed so far is decoded and its sessions are handed on.  Raises TimeoutError."""
        self.wait_for(lambda: self.source.idle and self.engine.intake.idle, timeout)
        if not self.engine.decoding.drained().wait(timeout):
            raise TimeoutError("decoding did not finish in time")

    def _run(self) -> None:
        async def life() -> None:
            self.engine = Engine(reading.read(self.path), entry_points=self._points, **self._options)
            await self.engine.start()
            self._started.set()
            await self.engine.run_until_stopped()

        try:
            asyncio.run(life())
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self._failure = error
        finally:
            self._started.set()


def _fake_source_plugin(source: FakeSource) -> object:
    class FakeSourcePlugin:
        @hookimpl
        def open_source(self, request: SourceRequest) -> FakeSource:
            """Return the fake source for any request."""
            if request.interfaces and source.name not in request.interfaces:
                raise InterfaceMissing(request.interfaces[0], existing=(source.name,))
            return source

        @hookimpl
        def list_interfaces(self) -> list[Interface]:
            """Return the fake source's interfaces."""
            return list(source.interfaces())

    return FakeSourcePlugin()
