"""The decoder thread: decodes batches from the intake and hands ended sessions on.  It waits for packets only.

The only plugin code on it are framers, and ``on_packet`` where a plugin implements it.  An error here costs at most the
open sessions, never the thread.  While no packet arrives, packet time advances with the monotonic clock from the last
packet on, so that neither a backlog nor a step of the wall clock ends an active session.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from threading import Event as Flag
from threading import Thread
from typing import Final

from hl7core.engine.capture.intake import Arrival, Intake
from hl7core.guard import describe
from hl7core.model.packet import Packet, PacketBatch
from hl7core.model.session import Ending, OpenSession, Session
from hl7core.wire.decoder import Decoder, DecoderOptions
from hl7core.wire.framing.framer import Dialect

__all__ = ["Decoding"]

logger = logging.getLogger(__name__)

_WAIT: Final = 0.1
_EXPIRE_EVERY: Final = 1.0
_SHOW_EVERY: Final = 0.25
_SHOW_SHARE: Final = 50
"""Listing open sessions may take one fiftieth of the thread's time."""


class Decoding:
    """Owns the Decoder and its thread.

    ``on_sessions`` gets the sessions that ended, ``on_open`` the open ones that changed (at most four times a second),
    ``on_fault`` one sentence when decoding failed and was restarted.  ``listeners`` returns who wants every packet.
    """

    def __init__(
        self,
        intake: Intake,
        *,
        on_sessions: Callable[[list[Session]], None],
        on_open: Callable[[list[OpenSession]], None] = lambda _sessions: None,
        on_fault: Callable[[str], None] = lambda _text: None,
        listeners: Callable[[], Sequence[Callable[[Sequence[Packet]], None]]] = lambda: (),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._intake = intake
        self._on_sessions = on_sessions
        self._on_open = on_open
        self._on_fault = on_fault
        self._listeners = listeners
        self._monotonic = monotonic
        self._options = DecoderOptions()
        self._dialects: tuple[Dialect, ...] = ()
        self._decoder = Decoder(self._options)
        self._shown: dict[str, tuple[int, int]] = {}
        self._fed = False
        self._last_packet_ns = 0
        self._last_packet_at = 0.0
        self._next_expire = 0.0
        self._next_show = 0.0
        self._earlier_counters: dict[str, int] = {}
        self._quit = False
        self._stopped = Flag()
        self._thread: Thread | None = None
        self.faults = 0
        self.open_count = 0
        self.finite = False  # whether the packets come from files: then no time passes between them

    @property
    def counters(self) -> dict[str, int]:
        """What was decoded since the start, counted by name; restarts of the decoder included."""
        counters = dict(self._earlier_counters)
        for name, value in dict(self._decoder.counters).items():
            counters[name] = counters.get(name, 0) + value
        return counters

    @property
    def encrypted(self) -> str:
        """One sentence about encrypted connections, "" if there were none."""
        return self._decoder.encrypted.sentence()

    def start(self) -> None:
        """Start the thread."""
        self._thread = Thread(target=self._run, name="hl7core-decoder", daemon=True)
        self._thread.start()

    def configure(self, options: DecoderOptions, dialects: Sequence[Dialect]) -> None:
        """Use ``options`` and ``dialects`` for connections that begin from now on, and its timeouts for all."""

        def work() -> None:
            self._options, self._dialects = options, tuple(dialects)
            self._decoder.configure(self._options, self._dialects)

        self._run_in_order(work)

    def end_open(self, ending: Ending) -> Flag:
        """End the open sessions once everything that has arrived is decoded; the returned flag is set then."""
        done = Flag()

        def work() -> None:
            try:
                self._hand_on(self._decoder.end(ending))
            finally:
                done.set()

        self._run_in_order(work)
        return done

    def drained(self) -> Flag:
        """Return a flag that is set once everything that has arrived so far is decoded and handed on."""
        done = Flag()
        self._run_in_order(done.set)
        return done

    def stop(self, ending: Ending, timeout: float, on_stuck: Callable[[], None] = lambda: None) -> bool:
        """Decode what is waiting, end the open sessions and the thread; return false if packets were discarded.

        ``on_stuck`` is called if half of the time has passed.
        """
        if self._thread is None or self._stopped.is_set():
            return True
        self._intake.close()
        done = self.end_open(ending)
        complete = done.wait(timeout / 2)
        if not complete:
            on_stuck()
            complete = done.wait(timeout / 2)
        if not complete:
            lost = self._intake.discard()
            logger.warning("stopped with a backlog: %d captured packets were not decoded", lost)
        self._run_in_order(self._leave)
        self._thread.join(timeout)
        return complete

    def _leave(self) -> None:
        self._quit = True

    def _run_in_order(self, work: Callable[[], None]) -> None:
        if self._thread is None or not self._thread.is_alive():
            work()
        else:
            self._intake.put_work(work)

    def _run(self) -> None:
        try:
            while not self._quit:
                try:
                    self._step()
                except Exception as error:  # noqa: BLE001 - the capture goes on
                    self._restart(error)
        finally:
            self._stopped.set()

    def _step(self) -> None:
        item = self._intake.get(_WAIT)
        if isinstance(item, Arrival):
            self._decode(item.batch)
        elif item is not None:
            item()
        now = self._monotonic()
        if now >= self._next_expire:
            self._next_expire = now + _EXPIRE_EVERY
            self._intake.report_drops()
            self._expire(now)
        if now >= self._next_show and (self._fed or self._shown):
            self._show(now)

    def _decode(self, batch: PacketBatch) -> None:
        listeners = self._listeners()
        if listeners:
            packets = tuple(batch.packets())
            for listener in listeners:
                listener(packets)
        self._last_packet_ns = batch.times[-1]
        self._last_packet_at = self._monotonic()
        self._fed = True
        self._hand_on(self._decoder.feed(batch))

    def _expire(self, now: float) -> None:
        """Advance packet time while nothing arrives.  The time of a file is that of its packets alone."""
        if self.finite or not self._last_packet_ns or self._intake.paused or not self._intake.idle:
            return
        elapsed = now - self._last_packet_at
        if elapsed >= _EXPIRE_EVERY:
            self._hand_on(self._decoder.expire(self._last_packet_ns + int(elapsed * 1e9)))

    def _hand_on(self, sessions: list[Session]) -> None:
        if sessions:
            self._on_sessions(sessions)

    def _show(self, now: float) -> None:
        self._fed = False
        current = self._decoder.open_sessions()
        self.open_count = len(current)
        changed = [s for s in current if self._shown.get(s.id) != (s.elements, s.last_ns)]
        self._shown = {s.id: (s.elements, s.last_ns) for s in current}
        if changed:
            self._on_open(changed)
        self._next_show = now + max(_SHOW_EVERY, _SHOW_SHARE * (self._monotonic() - now))

    def _restart(self, error: Exception) -> None:
        """Decoding failed: save the sessions that the decoder still gives, and go on with a new decoder."""
        self.faults += 1
        broken = self._decoder
        for name, value in dict(broken.counters).items():
            self._earlier_counters[name] = self._earlier_counters.get(name, 0) + value
        self._decoder = Decoder(self._options, self._dialects)
        self._shown.clear()
        logger.error("decoding failed (%s); open sessions were ended and decoding was restarted", describe(error))
        try:
            self._hand_on(broken.end(Ending.EVICTED))
        except Exception as second:  # noqa: BLE001 - it has failed already
            logger.error("the open sessions of the failed decoder are lost (%s)", describe(second))  # noqa: TRY400
        self._on_fault(f"decoding failed ({describe(error)}); open sessions were ended early")
