"""An engine to test a plugin in: on a folder of its own, on a thread of its own, with the plugins that you give it.

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
    """A PacketSource that hands on the batches it is given, and ends when it is told, or when they are used up.

    With ``live`` false it ends by itself behind the last batch.  ``error`` is raised then.
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
        """What people call it."""
        return self._name

    def feed(self, *batches: PacketBatch) -> None:
        """Hand these on."""
        with self._changed:
            self._batches.extend(batches)
            self._changed.notify_all()

    def finish(self, error: Exception | None = None) -> None:
        """End behind the last batch, with ``error`` if there is one."""
        with self._changed:
            self._over = True
            self._error = error or self._error
            self._changed.notify_all()

    @property
    def idle(self) -> bool:
        """Whether everything was handed on."""
        with self._changed:
            return not self._batches and not self._busy

    def run(self, emit: Callable[[PacketBatch], None]) -> None:
        """Hand batches on until there are no more or ``stop`` is called."""
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
        """Make ``run`` return once what it holds is handed on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def stats(self) -> SourceStats:
        """Say what it has handed on."""
        return SourceStats(received=self._received, dropped=self.dropped, detail=self.detail)

    def interfaces(self) -> Sequence[Interface]:
        """Name its one interface."""
        return [Interface(self._name)]


def entry_point_for(name: str, plugin: object) -> EntryPoint:
    """Return an entry point that yields ``plugin``: a class, or one object that is used again at each enabling."""
    kind = plugin if isinstance(plugin, type) else type(name, (), {"__new__": lambda _cls: plugin})
    return _GivenEntryPoint(name, kind)


class _GivenEntryPoint(EntryPoint):
    """An entry point of the group ``hl7core`` that need not be installed."""

    def __init__(self, name: str, kind: type) -> None:
        super().__init__(name, f"{kind.__module__}:{kind.__qualname__}", "hl7core")
        vars(self)["_kind"] = kind

    def load(self) -> Any:
        """Return the class."""
        return vars(self)["_kind"]


class EngineHarness:
    """Runs an :class:`Engine` on a thread; a context manager.

    ``plugins`` are classes or objects by name; they are enabled in ``settings.toml`` in ``folder``, where ``settings``
    (by dotted key) go too.  A plugin ``fake_source`` with the FakeSource ``source`` is added unless there is one.
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
        """What plugins get."""
        return self.engine.runtime

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
        if error is None:
            self.raise_failure()

    def start(self) -> None:
        """Start the engine; raises what keeps it from starting."""
        self._thread.start()
        if not self._started.wait(_PATIENCE):
            raise TimeoutError("the engine does not start")
        self.raise_failure()

    def stop(self) -> None:
        """Stop the engine and wait for it."""
        if self._thread.is_alive():
            self.engine.loop.call_soon_threadsafe(self.engine.request_stop)
        self.join()

    def join(self, timeout: float = _PATIENCE) -> None:
        """Wait for the engine to end by itself."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError("the engine does not end")

    def raise_failure(self) -> None:
        """Raise what the engine ended with, if it did not end well."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def feed(self, *batches: PacketBatch) -> None:
        """Hand packets to the fake source."""
        self.source.feed(*batches)

    def state(self) -> State:
        """Return the engine's state in numbers."""
        return self.engine.state()

    def call(self, coroutine: Coroutine[Any, Any, T], timeout: float = _PATIENCE) -> T:
        """Run ``coroutine`` on the engine's loop and return what it returns."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self.engine.loop)
        return future.result(timeout)

    def sessions(self, query: SessionQuery | None = None) -> list[Session]:
        """Return the sessions that fit, stored or not."""
        return self.call(self.runtime.sessions(query or SessionQuery()))

    def wait_for(self, done: Callable[[], object], timeout: float = _PATIENCE) -> None:
        """Wait until ``done`` says so.  Raises TimeoutError."""
        until = time.monotonic() + timeout
        while not done():
            if time.monotonic() > until:
                raise TimeoutError("it did not happen")
            time.sleep(0.005)

    def wait_decoded(self, timeout: float = _PATIENCE) -> None:
        """Wait until all that was fed is decoded and handed on."""
        self.wait_for(lambda: self.source.idle and self.engine.intake.idle, timeout)
        if not self.engine.decoding.drained().wait(timeout):
            raise TimeoutError("decoding does not come to an end")

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
            """Offer the fake source for whatever is asked."""
            if request.interfaces and source.name not in request.interfaces:
                raise InterfaceMissing(request.interfaces[0], existing=(source.name,))
            return source

        @hookimpl
        def list_interfaces(self) -> list[Interface]:
            """Name the fake source's interfaces."""
            return list(source.interfaces())

    return FakeSourcePlugin()
