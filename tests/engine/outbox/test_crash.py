"""Killed in the middle of a cycle: nothing is lost, and nothing is called submitted that was not acknowledged."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from hl7core.testing import HttpReceiver, make_session
from hl7core.testing.receiver import drops, receives

COUNT = 200
KILLS = 6


def deliveries(folder):
    """What the files say, by session id."""
    found = {}
    for path in (folder / "docs" / "sessions").glob("*.json"):
        session = json.loads(path.read_bytes())
        found[session["sessionId"]] = session["deliveries"]["dest"]
    return found


def all_stored(folder):
    return sum(1 for _ in (folder / "docs" / "sessions").glob("*.json")) == COUNT


def test_a_kill_in_mid_cycle_loses_nothing_and_claims_nothing(tmp_path):
    draw = random.Random(5)
    ids = {make_session(number).id for number in range(COUNT)}
    acknowledged = set()

    def answers(turn):
        """Acknowledge most, take some without saying so, be at fault for a few."""
        time.sleep(0.01)
        chance = draw.random()
        if chance < 0.15:
            drops(processed=chance < 0.1)(turn)
        elif chance < 0.2:
            receives(503)(turn)
        else:
            seen = len(turn.receiver.requests)
            receives()(turn)
            acknowledged.update(i for request in turn.receiver.requests[seen:] for i in request.ids)

    with HttpReceiver() as receiver:
        receiver.behaviour = answers
        command = [
            sys.executable,
            str(Path(__file__).parent / "outbox_worker.py"),
            str(tmp_path),
            receiver.url,
            str(COUNT),
        ]
        cut = 0
        for _ in range(KILLS):
            taken = len(receiver.processed)
            worker = subprocess.Popen(command)
            patience = time.monotonic() + 60
            wanted = min(taken + draw.randrange(5, 25), COUNT)
            # What is only in memory dies with the process: the first kill waits until all is stored.
            while (len(receiver.processed) < wanted or not all_stored(tmp_path)) and worker.poll() is None:
                assert time.monotonic() < patience
                time.sleep(0.005)
            while len(deliveries(tmp_path)) < COUNT:  # the worker saves them at its first start
                assert time.monotonic() < patience
                time.sleep(0.005)
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            cut += worker.returncode == -signal.SIGKILL
            stored = deliveries(tmp_path)
            assert set(stored) == ids
            submitted = {i for i, delivery in stored.items() if delivery["status"] == "submitted"}
            assert submitted <= acknowledged
            assert all(delivery["submittedAt"] for i, delivery in stored.items() if i in submitted)
        assert cut >= KILLS - 1
        assert subprocess.run(command, timeout=100, check=False).returncode == 0
        assert {delivery["status"] for delivery in deliveries(tmp_path).values()} == {"submitted"}
        assert set(receiver.processed) == ids
        assert acknowledged == ids
