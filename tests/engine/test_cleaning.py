"""A cleanup that reports its progress, and goes on if nobody waits for it any more."""

import asyncio
import threading

import pytest

from engine.parts import Store, poll
from hl7core.engine.cleaning import clean
from hl7core.hookspecs import hookimpl
from hl7core.model.cleanup import CleanupReport
from hl7core.model.events import CleanupProgress
from hl7core.testing import EngineHarness


class Broom:
    """Reports one deleted session, and is done when ``gate`` is open."""

    def __init__(self):
        self.gate = threading.Event()
        self.done = False

    @hookimpl
    def start(self, runtime):
        self.runtime = runtime

    @hookimpl
    def cleanup(self, now, dry_run):
        self.runtime.publish(CleanupProgress(1, 0, dry_run))
        self.gate.wait(10)
        self.done = True
        return CleanupReport(deleted=1, dry_run=dry_run)


@pytest.fixture
def broom():
    return Broom()


@pytest.fixture
def harness(tmp_path, broom):
    plugins = {"memory_store": Store(), "broom": broom}
    with EngineHarness(tmp_path, plugins, settings={"core.store": "memory_store"}) as harness:
        yield harness


def cleaning(harness, progress):
    return clean(harness.runtime, harness.engine.news, dry_run=False, confirmed=False, progress=progress)


def test_progress_is_reported_while_the_cleanup_runs_and_the_reports_are_returned(harness, broom):
    seen = []

    async def progress(item):
        seen.append(item.deleted)
        broom.gate.set()

    assert harness.call(cleaning(harness, progress)) == [CleanupReport(deleted=1)]
    assert seen == [1]


def test_a_cleanup_that_nobody_waits_for_any_more_goes_on(harness, broom):
    async def give_up():
        heard = asyncio.Event()

        async def progress(_item):
            heard.set()

        waiting = asyncio.create_task(cleaning(harness, progress))
        await heard.wait()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()

    harness.call(give_up())
    assert not broom.done
    broom.gate.set()
    poll(lambda: broom.done)
