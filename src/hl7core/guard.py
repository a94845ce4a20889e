"""Guarding a plugin's code: what happens to its errors, how they are described, and how long a call may take.

Whatever a plugin raises affects that plugin alone.  A description of the error never contains its message, which may
quote a patient, unless the error is one of ours.  Only Ctrl-C passes, and only on the main thread, where it can occur.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import os
import threading
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from hl7core.errors import Hl7coreError, PluginError, SettingsError

__all__ = [
    "contained",
    "describe",
    "guarded",
    "in_thread",
    "made_progress",
    "progress_of",
    "reason_of",
    "watched_progress",
]

T = TypeVar("T")

_on_progress: ContextVar[Callable[[], None] | None] = ContextVar("hl7core-on-progress", default=None)


def made_progress() -> None:
    """Note that the plugin's call that runs here, if there is one, is getting on: its time begins anew."""
    on_progress = _on_progress.get()
    if on_progress is not None:
        on_progress()


def progress_of() -> Callable[[], None] | None:
    """Return the function that notes progress of the plugin's call that runs here, None if there is no such call."""
    return _on_progress.get()


@contextlib.contextmanager
def watched_progress(on_progress: Callable[[], None]) -> Iterator[None]:
    """Call ``on_progress`` whenever the code in the block makes progress, on its thread."""
    token = _on_progress.set(on_progress)
    try:
        yield
    finally:
        _on_progress.reset(token)


def contained(error: BaseException) -> bool:
    """Return whether ``error`` is the plugin's own; if not, the caller must raise it again."""
    return not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread()


def describe(error: BaseException) -> str:
    """Return a description of ``error`` that quotes its message only if it is one of ours.

    Otherwise it has the type, what is safe to show (the name of a missing module, the system's text for an errno), and
    the innermost line of code.
    """
    kind = type(error).__name__
    if isinstance(error, Hl7coreError):
        return f"{kind}: {error}"
    detail = ""
    if isinstance(error, ModuleNotFoundError) and error.name:
        detail = f" (no module {error.name})"
    elif isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        detail = f" ({os.strerror(error.errno)})"
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{kind}{detail}{place}"


def reason_of(error: BaseException) -> str:
    """Return why ``error`` was raised, in words for a person.

    The text of a foreign exception may hold message content, so only its class is named.
    """
    if isinstance(error, Hl7coreError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return describe(error)


async def in_thread(function: Callable[..., T], *args: Any, deadline: float | None = None, name: str = "plugin") -> T:
    """Run ``function`` on a thread of its own; return its result, or abandon the thread after ``deadline`` seconds.

    The thread is a daemon, so a plugin that never returns cannot keep the process from ending.  Raises what the
    function raises (SystemExit and its like as PluginError, because they would end the event loop), or TimeoutError.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def resolve(result: T | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type] # None only if T is

    def run() -> None:
        result: T | None = None
        failure: Exception | None = None
        try:
            result = function(*args)
        except StopIteration as error:  # a future cannot hold it
            failure = PluginError(describe(error))
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            failure = error
        except BaseException as error:  # noqa: BLE001 - SystemExit of a plugin must not end the engine
            failure = PluginError(describe(error))
        try:
            loop.call_soon_threadsafe(resolve, result, failure)
        except RuntimeError:  # the loop has ended, so nobody is waiting
            return

    threading.Thread(target=run, name=name, daemon=True).start()
    async with asyncio.timeout(deadline):
        return await future


async def guarded(what: str, function: Callable[..., Any], *args: Any, deadline: float) -> Any:
    """Run plugin code within ``deadline`` seconds: on a thread, or on the loop if it is ``async def``.

    Progress that the code makes extends the deadline.  ``what`` names the call in errors.  Raises PluginError or
    SettingsError, whatever the plugin raises.
    """
    loop = asyncio.get_running_loop()
    extended = loop.time()

    def extend() -> None:
        with contextlib.suppress(RuntimeError):  # the call is over
            limit.reschedule(loop.time() + deadline)

    def on_progress() -> None:
        nonlocal extended
        if loop.time() - extended >= 1:
            extended = loop.time()
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(extend)

    def call() -> Any:
        try:
            with watched_progress(on_progress):
                return function(*args)
        except BaseException as error:
            if isinstance(error, Exception) and not isinstance(error, StopIteration):
                raise
            raise PluginError(f"{what}: {describe(error)}") from error  # here, where the call still has its name

    try:
        async with asyncio.timeout(deadline) as limit:
            answer = await in_thread(call, name=f"hl7core-{what}")
            with watched_progress(on_progress):
                return await answer if inspect.isawaitable(answer) else answer
    except (PluginError, SettingsError):
        raise
    except BaseException as error:
        if isinstance(error, TimeoutError) and limit.expired():
            raise PluginError(f"{what} took more than {deadline:.0f} seconds") from error
        task = asyncio.current_task()
        ours = isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
        if ours or not contained(error):
            raise
        raise PluginError(f"{what}: {describe(error)}") from error
