"""Whoever waits for a dead destination, the event loop and the decoding do not."""

import asyncio
import socket
import time
from statistics import quantiles

from engine.parts import Store, exchange, poll
from hl7core.contract import DestinationSettings
from hl7core.errors import DestinationUnreachable
from hl7core.hookspecs import hookimpl
from hl7core.model.delivery import Receipt
from hl7core.testing import EngineHarness

COUNT = 600
PACE = 0.004


class DeadEnd:
    """Connects where nobody answers: to a port that is full, on a worker thread."""

    def __init__(self):
        self.full = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.tries = 0

    @hookimpl
    def register_settings(self):
        return DestinationSettings

    @hookimpl
    def submit_session(self, session):
        self.tries += 1
        try:
            with socket.create_connection(self.full.getsockname(), timeout=1) as connection:
                connection.recv(1)
        except OSError:
            raise DestinationUnreachable("timed out") from None
        return Receipt()


def delays(folder, plugins):
    """Decode and store some 200 sessions a second; return how late a timer of 1 ms fires meanwhile, in ms, and how long it took."""
    store = Store()
    with EngineHarness(folder, {"mem": store, **plugins}, settings={"core.store": "mem"}) as harness:
        late, over = [], False

        async def watch():
            while not over:
                began = time.perf_counter()
                await asyncio.sleep(0.001)
                late.append((time.perf_counter() - began - 0.001) * 1000)

        watching = asyncio.run_coroutine_threadsafe(watch(), harness.engine.loop)
        began = time.perf_counter()
        for number in range(COUNT):
            harness.feed(exchange(f"M{number}", seconds=number))
            time.sleep(PACE)
        poll(lambda: len(store.held) == COUNT, 60)
        took = time.perf_counter() - began
        over = True
        watching.result(10)
    return quantiles(late, n=100)[98], took


def test_a_dead_destination_delays_neither_the_loop_nor_the_decoding(tmp_path):
    calm, alone = delays(tmp_path / "alone", {})
    dead = DeadEnd()
    busy, beside = delays(tmp_path / "dead", {"dead": dead})
    dead.full.close()
    assert dead.tries
    assert busy < max(10.0, 5 * calm), f"p99 {busy:.1f} ms, without a dead destination {calm:.1f} ms"
    assert beside < 5 * alone + 1
