import asyncio
import threading

from fakes import registry
from plugin_host.parts import RUNTIME, diary


def test_changes_are_delivered_in_order_whichever_thread_delivers_them():
    made, told = registry({"one": diary()}), []
    inside, go = threading.Event(), threading.Event()

    def listen(change):
        told.append(change.error)
        if change.error == "first":
            inside.set()
            go.wait()
        if change.error == "second":
            made.set_error("one", "caused by the second")

    async def run():
        await made.start(RUNTIME)
        made.listen(listen)
        slow = threading.Thread(target=made.set_error, args=("one", "first"))
        slow.start()
        inside.wait()
        made.set_error("one", "second")  # does not wait for the thread that delivers
        made.set_error("one", "third")
        assert told == ["first"]
        go.set()
        slow.join()

    asyncio.run(run())
    assert told == ["first", "second", "third", "caused by the second"]
