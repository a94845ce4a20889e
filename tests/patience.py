"""Waiting for what happens on other threads and in other processes, on machines that may stall."""

import time


def eventually(condition, seconds=10.0):
    """Return whether ``condition()`` came true within ``seconds``."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True
