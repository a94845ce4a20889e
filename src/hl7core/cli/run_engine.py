"""Running an engine from a command until it ends: signals, limits, a live view, and the exit code."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Final, NamedTuple

import click

from hl7core.cli import exit_codes
from hl7core.cli.output.live_view import show_live
from hl7core.cli.output.text import counted
from hl7core.cli.tune_gc import tune_gc
from hl7core.engine.apply_settings import safe_mode_sentence
from hl7core.engine.engine import Engine

__all__ = ["Limit", "announce_safe_mode", "run_engine"]

_VIEW_QUEUE: Final = 10_000
"""So many sessions may wait to be shown; the output may be the only copy that somebody keeps of them."""


class Limit(NamedTuple):
    """When a capture ends by itself: after ``packets`` or ``seconds`` (0: no limit)."""

    packets: int = 0
    seconds: float = 0.0


NO_LIMIT: Final = Limit()


def run_engine(engine: Engine, *, output: str | None = None, limit: Limit = NO_LIMIT) -> int:
    """Run ``engine`` until a signal, ``limit`` or its source ends it, and return the exit code.

    ``output`` is the format in which sessions are shown as they end (None: no live view).  Raises what keeps the engine
    from running.
    """
    try:
        return asyncio.run(_run(engine, output, limit))
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED


def announce_safe_mode(engine: Engine) -> None:
    """Print, in safe mode, which plugins are left out.  Raises SettingsError if the store would be one of them."""
    if engine.registry.safe_mode:
        engine.check_store()
        click.echo(safe_mode_sentence(engine.registry.left_out()), err=True)


async def _run(engine: Engine, output: str | None, limit: Limit) -> int:
    loop = asyncio.get_running_loop()
    interrupted = False
    if output is not None and logging.getLogger().level >= logging.WARNING:
        logging.getLogger("hl7core").setLevel(logging.CRITICAL)  # the live view says the same in fewer words

    def stop(number: int) -> None:
        nonlocal interrupted
        interrupted = number == signal.SIGINT
        engine.request_stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop, number)
        except NotImplementedError:  # Windows: an interrupt arrives as KeyboardInterrupt
            break
    follower = engine.follow(_VIEW_QUEUE)
    view = asyncio.create_task(show_live(follower, output))
    limiting = asyncio.create_task(_stop_at(engine, limit))
    try:
        await engine.start()
        tune_gc()
        await engine.run_until_stopped()
    finally:
        limiting.cancel()
        (limited,) = await asyncio.gather(limiting, return_exceptions=True)
        await engine.stop()
        follower.close()
        await view
    if isinstance(limited, Exception):
        raise limited
    if engine.unsaved:
        click.echo(f"hl7core: {counted(len(engine.unsaved), 'session')} could not be saved", err=True)
        if engine.unsaved_reason:
            click.echo(f"hl7core: {engine.unsaved_reason}", err=True)
        return exit_codes.PARTIAL
    return exit_codes.INTERRUPTED if interrupted else exit_codes.OK


async def _stop_at(engine: Engine, limit: Limit) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + limit.seconds if limit.seconds else None
    while True:
        await asyncio.sleep(0.05)
        if until is not None and loop.time() >= until:
            engine.request_stop()
        if limit.packets and engine.state().packets >= limit.packets:
            engine.request_stop()
