"""The intake: live packets never wait and are counted when let go, files wait and lose nothing."""

import threading
import time

from engine.parts import noise, poll
from hl7core.engine.capture.intake import Arrival, Intake


def taken(intake: Intake) -> list:
    found = []
    while (item := intake.get(0)) is not None:
        found.append(item.batch if isinstance(item, Arrival) else item)
    return found


def test_batches_come_out_in_the_order_in_which_they_came_in_and_orders_among_them():
    intake = Intake()
    first, second = noise(1), noise(2)
    intake.put(first, "eth0")
    intake.put_work(intake.pause)
    intake.put(second, "eth0")
    assert taken(intake) == [first, intake.pause, second]


def test_a_live_source_never_waits_and_what_does_not_fit_is_counted_and_marked_on_the_next_batch():
    told = []
    intake = Intake(max_bytes=2000, on_drop=lambda *drop: told.append(drop))
    assert intake.put(noise(5), "eth0")
    assert not intake.put(noise(7), "eth0")
    assert not intake.put(noise(8), "eth0")
    assert intake.dropped == 15
    assert [batch.count for batch in taken(intake)] == [5]
    assert intake.put(noise(3), "eth0")
    assert [(batch.count, batch.skipped) for batch in taken(intake)] == [(3, 15)]
    assert told[0] == ("eth0", 7, 7)


def test_the_gap_is_marked_on_the_interface_that_lost_packets_and_on_no_other():
    intake = Intake(max_batches=1)
    intake.put(noise(1), "any")
    intake.put(noise(4, interface="eth1"), "any")
    taken(intake)
    intake.put(noise(1, interface="eth0"), "any")
    assert [batch.skipped for batch in taken(intake)] == [0]
    intake.put(noise(1, interface="eth1"), "any")
    assert [batch.skipped for batch in taken(intake)] == [4]


def test_losses_are_told_at_most_once_a_second_and_none_is_forgotten():
    told = []
    intake = Intake(max_batches=1, on_drop=lambda *drop: told.append(drop))
    intake.put(noise(1), "eth0")
    for _ in range(50):
        intake.put(noise(1), "eth0")
    assert told == [("eth0", 1, 1)]
    time.sleep(1.05)
    intake.report_drops()
    assert told == [("eth0", 1, 1), ("eth0", 49, 50)]


def test_a_batch_larger_than_the_intake_still_passes_when_it_is_alone():
    intake = Intake(max_bytes=10)
    assert intake.put(noise(1, size=5000), "eth0")


def test_a_finite_source_waits_instead_of_losing_packets():
    intake = Intake(max_batches=1)
    intake.put(noise(1), "day.pcap", finite=True)
    done = threading.Event()
    thread = threading.Thread(target=lambda: (intake.put(noise(2), "day.pcap", finite=True), done.set()), daemon=True)
    thread.start()
    assert not done.wait(0.1)
    assert intake.get(1).batch.count == 1
    assert done.wait(5)
    assert intake.get(1).batch.count == 2
    assert intake.dropped == 0


def test_a_finite_sources_packets_are_held_back_while_too_much_waits_for_the_store():
    full = True
    intake = Intake(hold=lambda: full)
    intake.put(noise(1), "day.pcap", finite=True)
    assert intake.get(0.05) is None
    full = False
    assert intake.get(1).batch.count == 1


def test_while_paused_live_packets_are_let_go_and_the_gap_is_marked_afterwards():
    intake = Intake()
    intake.pause()
    assert not intake.put(noise(6), "eth0")
    assert (intake.discarded, intake.dropped) == (6, 0)
    intake.resume()
    intake.put(noise(1), "eth0")
    assert intake.get(0).batch.skipped == 6


def test_while_paused_a_finite_source_waits():
    intake = Intake()
    intake.pause()
    done = threading.Event()
    threading.Thread(target=lambda: (intake.put(noise(1), "f", finite=True), done.set()), daemon=True).start()
    assert not done.wait(0.1)
    intake.resume()
    assert done.wait(5)
    assert intake.discarded == 0


def test_closing_frees_who_waits_and_what_is_queued_can_still_be_taken():
    intake = Intake(max_batches=1)
    intake.put(noise(1), "f", finite=True)
    thread = threading.Thread(target=lambda: intake.put(noise(2), "f", finite=True), daemon=True)
    thread.start()
    time.sleep(0.05)
    intake.close()
    thread.join(5)
    assert not thread.is_alive()
    assert [batch.count for batch in taken(intake)] == [1]


def test_a_restart_marks_a_gap_of_unknown_size():
    intake = Intake()
    intake.mark_gap("eth0", "fake0")
    intake.put(noise(1), "eth0")
    assert intake.get(0).batch.skipped == 1


def test_a_getter_wakes_when_something_comes():
    intake = Intake()
    got = []
    thread = threading.Thread(target=lambda: got.append(intake.get(10)), daemon=True)
    thread.start()
    intake.put(noise(1), "eth0")
    poll(lambda: got)
    assert got[0].batch.count == 1
