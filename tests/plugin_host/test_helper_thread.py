import threading
import time

import pytest

from hl7core.plugin_host.helper_thread import AnswerTimeout, HelperThread, on_asking_thread
from hl7core.plugin_host.watchdog import RunningCall
from plugin_host.parts import wait_for


@pytest.fixture
def helper():
    made = HelperThread("one")
    yield made
    made.end()


def test_an_answer_comes_from_another_thread(helper):
    assert helper.ask(lambda: threading.current_thread().name) == "hl7core-ask-one"


def test_what_is_raised_is_raised_where_it_was_asked(helper):
    def fail():
        raise SystemExit("mine")

    with pytest.raises(SystemExit, match="mine"):
        helper.ask(fail)
    assert helper.ask(lambda: 1) == 1


def test_a_call_that_is_abandoned_is_not_waited_for_and_nothing_is_asked_until_it_returns(helper):
    gate, inside, call = threading.Event(), threading.Event(), RunningCall("one", "hook", None)

    def hang():
        inside.set()
        gate.wait()
        return "late"

    def abandon():
        inside.wait()
        call.release()

    threading.Thread(target=abandon).start()
    with pytest.raises(AnswerTimeout):
        helper.ask(hang, call)
    for _ in range(3):
        with pytest.raises(AnswerTimeout):
            helper.ask(lambda: "never asked")
    gate.set()
    wait_for(lambda: not helper._overdue)
    assert helper.ask(lambda: "asked again") == "asked again"


def test_an_answer_that_comes_as_it_is_abandoned_counts(helper):
    for _ in range(200):
        call = RunningCall("one", "hook", None)

        def answer(call=call):
            call.release()
            return "in time"

        try:
            assert helper.ask(answer, call) == "in time"
        except AnswerTimeout:
            wait_for(lambda: not helper._overdue)


def test_the_plugins_code_can_have_work_done_by_whoever_asked_which_may_ask_again(helper):
    done = []

    def work():
        done.append(threading.current_thread() is threading.main_thread())
        done.append(helper.ask(lambda: threading.current_thread().name))

    def call():
        on_asking_thread(work)
        on_asking_thread(work)
        return "finished"

    assert helper.ask(call) == "finished"
    assert done == [True, "hl7core-ask-one"] * 2


def test_what_that_work_raises_is_raised_in_the_plugins_code(helper):
    def work():
        raise KeyError("stop")

    def call():
        with pytest.raises(KeyError):
            on_asking_thread(work)
        return "caught"

    assert helper.ask(call) == "caught"


def test_an_abandoned_call_has_no_work_done_and_goes_on(helper):
    gate, call, done, ended = threading.Event(), RunningCall("one", "hook", None), [], threading.Event()

    def hang():
        call.release()
        gate.wait()
        on_asking_thread(lambda: done.append(1))
        ended.set()

    with pytest.raises(AnswerTimeout):
        helper.ask(hang, call)
    gate.set()
    assert ended.wait(10)
    assert done == []


def test_a_call_that_is_abandoned_while_its_work_is_done_goes_on_afterwards(helper):
    call, ended = RunningCall("one", "hook", None), threading.Event()

    def hang():
        on_asking_thread(call.release)
        ended.set()
        return "late or in time"

    try:
        assert helper.ask(hang, call) == "late or in time"
    except AnswerTimeout:
        assert ended.wait(10)


def test_one_asks_at_a_time_and_a_second_one_is_told_of_the_first_that_hangs(helper):
    gate, call, told = threading.Event(), RunningCall("one", "hook", None), []

    def second():
        try:
            helper.ask(lambda: told.append("asked"))
        except AnswerTimeout:
            told.append("timeout")

    def hang():
        other = threading.Thread(target=second)
        other.start()
        time.sleep(0.05)
        call.release()
        gate.wait()

    with pytest.raises(AnswerTimeout):
        helper.ask(hang, call)
    wait_for(lambda: told == ["timeout"])
    gate.set()


def test_the_thread_ends_when_nobody_holds_the_helper():
    def names():
        return [thread.name for thread in threading.enumerate()]

    made = HelperThread("forgotten")
    assert "hl7core-ask-forgotten" in names()
    made.ask(lambda: None)
    del made
    wait_for(lambda: "hl7core-ask-forgotten" not in names())
