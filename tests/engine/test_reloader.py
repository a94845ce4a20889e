"""Settings files that change: right ones count within a second, wrong ones change nothing."""

import asyncio
import os
import time

import pytest

from hl7core.engine.reloader import Reloader
from hl7core.settings import reading


class Watched:
    def __init__(self, folder, text="[core]\nretention_days = 5\n"):
        self.path = folder / "settings.toml"
        if text is not None:
            self.path.write_text(text)
        self.applied = []
        self.told = []
        self.at = 0.0

    def __call__(self, story):
        async def apply(settings):
            self.applied.append(settings.core.retention_days)
            self.at = time.monotonic()
            return ()

        def read():
            return reading.read(self.path if self.path.exists() else None)

        async def main():
            reloader = Reloader(self.path, read=read, apply=apply, report=self.told.append)
            reloader.start()
            await asyncio.sleep(0.2)
            try:
                await story(reloader)
            finally:
                await reloader.stop()

        asyncio.run(asyncio.wait_for(main(), 60))

    def write(self, days):
        self.path.write_text(f"[core]\nretention_days = {days}\n")

    def replace(self, days):
        other = self.path.with_name("new.tmp")
        other.write_text(f"[core]\nretention_days = {days}\n")
        other.replace(self.path)

    async def until(self, done):
        end = time.monotonic() + 5.0
        while not done():
            assert time.monotonic() < end, (self.applied, self.told)
            await asyncio.sleep(0.01)


@pytest.fixture
def watched(tmp_path):
    return Watched(tmp_path)


def test_a_new_valid_content_is_in_force_within_a_second_however_it_is_saved(watched):
    async def story(_):
        for days, save in enumerate(
            [watched.write, watched.replace, watched.replace, watched.write, watched.replace], 10
        ):
            began = time.monotonic()
            save(days)
            await watched.until(lambda days=days: watched.applied[-1:] == [days])
            assert watched.at - began < 1.0

    watched(story)
    assert watched.told == [()] * 5


def test_a_swapped_link_counts(tmp_path):
    for days in (7, 8):
        (tmp_path / f"v{days}").mkdir()
        (tmp_path / f"v{days}" / "settings.toml").write_text(f"[core]\nretention_days = {days}\n")
    (tmp_path / "..data").symlink_to("v7")
    watched = Watched(tmp_path, None)
    watched.path.symlink_to("..data/settings.toml")

    async def story(_):
        (tmp_path / "..tmp").symlink_to("v8")
        (tmp_path / "..tmp").replace(tmp_path / "..data")
        await watched.until(lambda: watched.applied == [8])

    watched(story)


def test_a_wrong_value_changes_nothing_and_is_told_once_by_name(watched):
    async def story(reloader):
        watched.write(9999)
        await watched.until(lambda: watched.told)
        os.utime(watched.path)
        watched.write(9999)
        await asyncio.sleep(1.5)
        assert reloader.problems

    watched(story)
    assert watched.applied == []
    assert len(watched.told) == 1
    assert "core.retention_days" in watched.told[0][0]
    assert "stay" in watched.told[0][0]


def test_each_distinct_wrong_content_is_told_of_once(watched):
    async def story(_):
        for number in (9998, 9999):
            watched.write(number)
            await watched.until(lambda number=number: len(watched.told) == number - 9997)

    watched(story)
    assert watched.applied == []


def test_a_file_that_is_being_written_is_given_time(watched):
    async def story(_):
        watched.path.write_text("[core]\nretention_da")
        await asyncio.sleep(0.3)
        watched.write(12)
        await watched.until(lambda: watched.applied)

    watched(story)
    assert watched.applied == [12]
    assert watched.told == [()]


@pytest.mark.parametrize("how", ["emptied", "gone", "half"])
def test_what_is_gone_emptied_or_half_written_keeps_the_settings_in_force(watched, how):
    async def story(_):
        if how == "gone":
            watched.path.unlink()
        else:
            watched.path.write_text("" if how == "emptied" else "[core]\nretention_days = ")
        await watched.until(lambda: watched.told)
        assert watched.applied == []
        watched.write(20)
        await watched.until(lambda: watched.applied == [20])

    watched(story)
    assert [bool(problems) for problems in watched.told] == [True, False]


def test_a_file_that_comes_back_as_it_was_is_no_news(watched):
    async def story(_):
        text = watched.path.read_text()
        watched.path.write_text("")
        await asyncio.sleep(0.2)
        watched.path.write_text(text)
        await asyncio.sleep(1.5)

    watched(story)
    assert (watched.applied, watched.told) == ([], [])


def test_a_settings_file_that_appears_is_taken(tmp_path):
    watched = Watched(tmp_path, None)

    async def story(_):
        watched.write(9)
        await watched.until(lambda: watched.applied == [9])

    watched(story)


def test_the_files_beside_it_count_too(watched, tmp_path):
    async def story(_):
        (tmp_path / "settings.local.toml").write_text("[core]\nretention_days = 33\n")
        await watched.until(lambda: watched.applied == [33])

    watched(story)


def test_other_files_in_the_folder_do_not(watched, tmp_path):
    async def story(_):
        (tmp_path / "notes.txt").write_text("x")
        await asyncio.sleep(1.3)

    watched(story)
    assert (watched.applied, watched.told) == ([], [])
