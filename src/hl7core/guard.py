"""Around a plugin's code: what it may raise, how that is told, and how long it may take.

The law: whatever a plugin raises stays a matter of that plugin, and what is told of it never holds its message unless
the error is one of ours (another's may quote a patient).  Ctrl-C alone passes, and only where it can arrive: on the
main thread.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import os
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hl7core.errors import Hl7coreError, PluginError, SettingsError

__all__ = ["contained", "describe", "guarded", "in_thread"]

T = TypeVar("T")


def contained(error: BaseException) -> bool:
    """Say whether ``error``, raised by a plugin, ends with the plugin; if not, it must be raised on."""
    return not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread()


def describe(error: BaseException) -> str:
    """Say what ``error`` is without what it says, unless it is one of ours.

    Of the others: the type, what is safe to tell (a missing module's name, the system's word for an errno), and the
    innermost line of code.
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


async def in_thread(function: Callable[..., T], *args: Any, deadline: float | None = None, name: str = "plugin") -> T:
    """Run ``function`` on a thread of its own and wait at most ``deadline`` seconds, then abandon the thread.

    The thread is a daemon, so that a plugin which never returns cannot keep the process from ending.  Raises what the
    function raises (SystemExit and its like as PluginError, since the event loop would end with them), or TimeoutError.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
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
        except StopIteration as error:  # no future may hold it
            failure = PluginError(describe(error))
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            failure = error
        except BaseException as error:  # noqa: BLE001 - SystemExit of a plugin is its failure, not our end
            failure = PluginError(describe(error))
        try:
            loop.call_soon_threadsafe(settle, result, failure)
        except RuntimeError:  # the loop has ended: nobody waits any more
            return

    threading.Thread(target=run, name=name, daemon=True).start()
    async with asyncio.timeout(deadline):
        return await future


async def guarded(what: str, function: Callable[..., Any], *args: Any, deadline: float) -> Any:
    """Run plugin code on a thread, and on the loop what is ``async def``, within ``deadline`` seconds.

    Raises PluginError or SettingsError, whatever the plugin raised; ``what`` names it.
    """
    try:
        async with asyncio.timeout(deadline) as limit:
            answer = await in_thread(function, *args, name=f"hl7core-{what}")
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
