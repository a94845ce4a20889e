import asyncio
import errno
import threading
import time

import pytest

from hl7core.errors import PluginError, SettingsError, StoreError
from hl7core.guard import contained, describe, guarded, in_thread, reason_of


@pytest.mark.parametrize("error", [ValueError(), SystemExit(), GeneratorExit(), asyncio.CancelledError()])
def test_what_a_plugin_raises_is_its_own(error):
    assert contained(error)


def test_ctrl_c_passes_on_the_main_thread_alone():
    assert not contained(KeyboardInterrupt())
    answers = []
    thread = threading.Thread(target=lambda: answers.append(contained(KeyboardInterrupt())))
    thread.start()
    thread.join()
    assert answers == [True]


def test_a_description_quotes_our_errors_and_no_others():
    assert describe(StoreError("the disk is full")) == "StoreError: the disk is full"
    assert describe(ValueError("canary")) == "ValueError"
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / 0
    assert describe(caught.value).startswith("ZeroDivisionError at test_guard.py:")


def test_a_description_names_a_missing_module_and_the_systems_error():
    assert describe(ModuleNotFoundError("canary", name="scapy")) == "ModuleNotFoundError (no module scapy)"
    assert describe(OSError(errno.ENOSPC, "canary")) == "OSError (No space left on device)"
    assert describe(OSError("canary")) == "OSError"


def test_a_thread_gives_its_result_or_raises_its_error():
    async def run():
        assert await in_thread(lambda a, b: a + b, 1, 2) == 3
        with pytest.raises(ValueError, match="shown"):
            await in_thread(lambda: (_ for _ in ()).throw(ValueError("shown")))

    asyncio.run(run())


@pytest.mark.parametrize("error", [SystemExit("canary"), GeneratorExit("canary"), StopIteration("canary")])
def test_what_would_end_the_loop_comes_out_of_a_thread_as_a_plugin_error(error):
    def fail():
        raise error

    with pytest.raises(PluginError) as caught:
        asyncio.run(in_thread(fail))
    assert "canary" not in str(caught.value)


def test_a_thread_that_exceeds_its_deadline_is_abandoned():
    release = threading.Event()

    async def run():
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await in_thread(release.wait, 60, deadline=0.02)
        return time.monotonic() - began

    assert asyncio.run(run()) < 30
    release.set()


def test_plugin_code_may_be_async_within_the_same_deadline():
    async def later():
        await asyncio.sleep(0)
        return "done"

    assert asyncio.run(guarded("one: start", later, deadline=30)) == "done"
    with pytest.raises(PluginError, match=r"^one: start took more than 0 seconds$"):
        asyncio.run(guarded("one: start", lambda: asyncio.sleep(60), deadline=0.02))


@pytest.mark.parametrize(
    "error", [ValueError("canary"), SystemExit("canary"), TimeoutError("canary"), StopIteration("canary")]
)
def test_a_guarded_error_names_the_call_and_does_not_quote_it(error):
    def fail():
        raise error

    with pytest.raises(PluginError, match=r"^one: start: ") as caught:
        asyncio.run(guarded("one: start", fail, deadline=30))
    assert "canary" not in str(caught.value)


def test_a_refusal_of_settings_comes_out_as_it_is():
    def refuse():
        raise SettingsError("plugins.one.level: not 1")

    with pytest.raises(SettingsError, match="not 1"):
        asyncio.run(guarded("one: configure", refuse, deadline=30))


def test_cancelling_the_caller_is_not_the_plugins_failure():
    async def run():
        task = asyncio.ensure_future(guarded("one: start", lambda: asyncio.sleep(60), deadline=60))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (StoreError("the disk is full"), "the disk is full"),
        (OSError(28, "No space left on device", "/data/PATIENT.json"), "No space left on device"),
        (ValueError("PATIENT^NAME"), "ValueError"),
    ],
    ids=["ours", "the system's", "foreign"],
)
def test_a_reason_never_holds_what_a_foreign_exception_quotes(error, reason):
    assert reason in reason_of(error)
    assert "PATIENT" not in reason_of(error)
