"""An engine that sends, in a process of its own that can be killed: ``outbox_worker.py FOLDER URL COUNT``.

It has ``COUNT`` sessions saved if the folder holds none, hands them to ``URL``, and ends when all are submitted:
what failed, or waits for its next cycle, is tried again each second.
"""

import http.client
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from hl7core import (
    DeliveryStatus,
    DestinationBroken,
    DestinationSettings,
    DestinationUnreachable,
    Receipt,
    SessionQuery,
    hookimpl,
    session_to_json,
)
from hl7core.testing import EngineHarness, make_session
from hl7core_plugins.json_store import JsonStore


class UrlSettings(DestinationSettings):
    url: str = ""


class UrlDestination:
    """The least that a destination of one's own needs: one POST, on a worker thread."""

    @hookimpl
    def register_settings(self):
        return UrlSettings

    @hookimpl
    def configure(self, settings):
        self.settings = settings
        self.where = urlsplit(settings.url)

    @hookimpl
    def submit_session(self, session):
        connection = http.client.HTTPConnection(self.where.hostname, self.where.port, timeout=self.settings.timeout)
        try:
            headers = {"Idempotency-Key": f'"{session.id}"', "Content-Type": "application/json"}
            connection.request("POST", self.where.path, session_to_json(session, saved=False), headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise DestinationUnreachable(type(error).__name__) from None
        finally:
            connection.close()
        if answer.status >= 300:
            raise DestinationBroken(f"HTTP {answer.status}")
        return Receipt()


def main(folder, url, count):
    settings = {"core.store": "json_store", "plugins.dest.url": url, "plugins.dest.concurrency": 4}
    with EngineHarness(Path(folder), {"json_store": JsonStore, "dest": UrlDestination}, settings=settings) as harness:
        if not harness.sessions(SessionQuery(limit=1)):
            harness.engine.ledger.add([make_session(number) for number in range(count)])
            harness.engine.keeper.wake()
        while len(harness.sessions(SessionQuery(status=(DeliveryStatus.SUBMITTED,), limit=count))) < count:
            time.sleep(1)
            failed = harness.sessions(SessionQuery(status=(DeliveryStatus.FAILED,), limit=count))
            harness.call(harness.runtime.retry([session.id for session in failed]))
            harness.call(harness.runtime.submit_now())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
