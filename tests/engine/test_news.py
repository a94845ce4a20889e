"""News: nobody is waited for, nothing is missed unsaid, a notice is told once."""

import asyncio

from engine.parts import session
from hl7core.engine.news import Follower, News
from hl7core.model.events import CaptureChanged, NoticeRaised, Resync


class Direct:
    def __init__(self):
        self.events = []

    def event(self, event):
        self.events.append(event)

    def session_complete(self, session):
        self.events.append(session)


def test_a_follower_hears_sessions_and_events_in_order_and_ends_when_closed():
    async def main():
        news = News(Direct())
        follower = news.follow(asyncio.get_running_loop())
        news.sessions([session(1)])
        news.event(CaptureChanged("eth0", "started"))
        news.unfollow(follower)
        news.event(CaptureChanged("eth0", "stopped"))
        assert [item async for item in follower] == [session(1), CaptureChanged("eth0", "started")]

    asyncio.run(main())


def test_what_does_not_fit_is_told_as_one_resync():
    async def main():
        follower = Follower(asyncio.get_running_loop(), limit=2)
        for number in range(7):
            follower.tell(session(number))
        follower.close()
        assert [item async for item in follower] == [session(0), session(1), Resync(5)]

    asyncio.run(main())


def test_what_is_told_at_once_is_as_if_told_one_by_one():
    async def main():
        follower = Follower(asyncio.get_running_loop(), limit=4)
        follower.tell(session(0))
        follower.tell(*[session(number) for number in range(1, 6)])
        follower.tell(session(6))
        follower.close()
        assert [item async for item in follower] == [*[session(number) for number in range(4)], Resync(3)]

    asyncio.run(main())


def test_several_are_what_waits_in_order_and_nothing_at_the_end():
    async def main():
        follower = Follower(asyncio.get_running_loop(), limit=3)
        for number in range(5):
            follower.tell(session(number))
        assert await follower.several() == [session(0), session(1), session(2)]
        assert await follower.several() == [Resync(2)]
        asyncio.get_running_loop().call_soon(follower.tell, session(9))
        assert await follower.several() == [session(9)]
        follower.close()
        assert await follower.several() == []

    asyncio.run(main())


def test_a_notice_is_told_once_and_once_more_when_it_is_settled():
    direct = Direct()
    news = News(direct)
    for _ in range(3):
        news.notice("store", "the disk is full")
    assert news.notices == (("store", "the disk is full"),)
    for _ in range(3):
        news.resolve("store", "sessions are saved again")
    assert news.notices == ()
    assert direct.events == [
        NoticeRaised("store", "the disk is full"),
        NoticeRaised("store", "sessions are saved again", resolved=True),
    ]
