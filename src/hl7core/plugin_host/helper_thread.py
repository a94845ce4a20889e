"""A helper thread: the calls of one plugin run on it, and whoever asks waits for the answer as long as it makes sense.

A call that is abandoned keeps the thread: until it returns, nothing else is asked there, and its answer is dropped.
While the plugin's code runs, it can have work done on the thread of whoever asked (:func:`on_asking_thread`), and what
that work asks of the same plugin is answered in the middle of the call.  So a store that reads for long lets sessions
be saved meanwhile, and all of its code still runs on one thread.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from queue import SimpleQueue
from typing import Any, Final, TypeVar, cast

from hl7core.plugin_host.calls import NotInService
from hl7core.plugin_host.watchdog import RunningCall

__all__ = ["AnswerTimeout", "HelperThread", "on_asking_thread"]

T = TypeVar("T")
_Item = Callable[[], None] | None
"""What a helper thread does next; None: it ends."""
_ABANDONED: Final = object()


class AnswerTimeout(Exception):  # noqa: N818 - named like TimeoutError's kin elsewhere: what happened
    """The plugin did not answer in time."""


class _Question:
    """One question, and the mail of whoever asked it; ``left``: nobody waits for the answer any more."""

    def __init__(self, questions: SimpleQueue[_Item]) -> None:
        self.questions = questions
        self.mail: SimpleQueue[Any] = SimpleQueue()
        self.answered = False
        self.left = False


_answering: ContextVar[_Question | None] = ContextVar("hl7core-answering", default=None)


def on_asking_thread(work: Callable[[], None]) -> None:
    """Run ``work`` on the thread that waits for the plugin's call that runs here, and wait; raise what it raises.

    Where no such call runs it is run here, and not at all if nobody waits for the call any more.
    """
    question = _answering.get()
    if question is None:
        work()
        return
    if question.left:
        return
    outcome: list[BaseException | None] = []

    def run() -> None:
        failure: BaseException | None = None
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised where it was asked for
            failure = error
        outcome.append(failure)
        question.questions.put(lambda: None)  # wakes the helper thread

    question.mail.put(run)
    while not outcome and not question.left:
        item = question.questions.get()
        if item is None:
            question.questions.put(None)  # the thread ends once the call has returned
            return
        item()
    if outcome and outcome[0] is not None:
        raise outcome[0]


class HelperThread:
    """Asks one plugin.  Its thread is a daemon, and ends with ``end`` or when nobody holds this object any more."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._questions: SimpleQueue[_Item] = SimpleQueue()
        self._asking = threading.RLock()  # one asks at a time, but may ask again while it does work for the plugin
        self._lock = threading.Lock()
        self._overdue: set[_Question] = set()
        self._ended = False
        threading.Thread(target=_run, args=(self._questions,), name=f"hl7core-ask-{name}", daemon=True).start()
        weakref.finalize(self, self._questions.put, None).atexit = False

    def ask(self, ask: Callable[[], T], call: RunningCall | None = None, seconds: float | None = None) -> T:
        """Return what ``ask`` returns, or raise what it raises.

        Raises AnswerTimeout after ``seconds`` (None: no limit), when the watchdog abandons ``call``, and at once while
        an earlier answer is overdue; NotInService after ``end``.
        """
        until = None if seconds is None else time.monotonic() + seconds
        if self._overdue or not self._asking.acquire(timeout=-1 if seconds is None else seconds):
            raise AnswerTimeout
        try:
            return self._ask(ask, call, until)
        finally:
            self._asking.release()

    def _ask(self, ask: Callable[[], T], call: RunningCall | None, until: float | None) -> T:
        question = _Question(self._questions)

        def answer() -> None:
            token = _answering.set(question)
            try:
                reply: tuple[Any, BaseException | None] = (ask(), None)
            except BaseException as error:  # noqa: BLE001 - handed to whoever asked
                reply = (None, error)
            finally:
                _answering.reset(token)
            with self._lock:
                question.answered = True
                self._overdue.discard(question)
            question.mail.put(reply)

        if call is not None:
            call.release = lambda: question.mail.put(_ABANDONED)
        with self._lock:
            if self._overdue:
                raise AnswerTimeout
            if self._ended:  # the thread no longer answers
                raise NotInService(f"{self.name} is not in service")
            self._questions.put(answer)
        try:
            value, error = self._answer_to(question, until)
        except BaseException:  # AnswerTimeout, or whoever asks was interrupted
            self._leave(question)
            raise
        if error is not None:
            raise error
        return cast("T", value)

    def _answer_to(self, question: _Question, until: float | None) -> tuple[Any, BaseException | None]:
        """Wait for the answer, and do meanwhile what the plugin's call wants done.  Raises AnswerTimeout."""
        while True:
            try:
                mail = question.mail.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                mail = _ABANDONED
            if mail is _ABANDONED:
                if self._leave(question):
                    raise AnswerTimeout
                until = None  # the answer is on its way
            elif callable(mail):
                mail()
            else:
                answer: tuple[Any, BaseException | None] = mail
                return answer

    def _leave(self, question: _Question) -> bool:
        """Wait for ``question`` no longer, unless its answer has come; return whether it had not."""
        with self._lock:
            if question.answered or question.left:
                return question.left
            question.left = True
            self._overdue.add(question)
        self._questions.put(lambda: None)  # wakes the thread if it waits for work to be done
        return True

    def end(self) -> None:
        """Answer the questions asked so far and no others."""
        with self._lock:
            self._ended = True
            self._questions.put(None)


def _run(questions: SimpleQueue[_Item]) -> None:
    while True:
        item = questions.get()
        if item is None:
            return
        item()
        del item  # or it would hold the helper until the next one comes
