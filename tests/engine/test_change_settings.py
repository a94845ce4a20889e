"""A change of settings on request: completely or not at all."""

import asyncio

import pytest

from hl7core.engine.engine import Engine
from hl7core.errors import (
    SettingsError,
)
from hl7core.settings.model import CoreSettings
from hl7core.settings.reading import Settings


def test_a_change_that_is_refused_leaves_the_file_as_it_was(parts, tmp_path):
    _, _, make = parts
    with make() as harness:
        before = (tmp_path / "settings.toml").read_text()
        for changes in (
            {"core.retention_days": 0},
            {"core.store": "no_such_store"},
            {"core.retention_days": 9, "plugins.listener.colour": "red"},
        ):
            with pytest.raises(SettingsError):
                harness.call(harness.runtime.change_settings(changes))
            assert (tmp_path / "settings.toml").read_text() == before
        assert harness.engine.settings.core.retention_days == 30
        assert harness.engine.record == "memory_store"


def test_a_linked_settings_file_stays_a_link_with_its_mode_when_a_change_is_refused(parts, tmp_path):
    _, _, make = parts
    with make() as harness:
        link, real = tmp_path / "settings.toml", tmp_path / "mine.toml"
        link.rename(real)
        real.chmod(0o640)
        link.symlink_to(real)
        before = real.read_text()
        with pytest.raises(SettingsError):
            harness.call(harness.runtime.change_settings({"core.store": "no_such_store"}))
        assert link.is_symlink()
        assert real.read_text() == before
        assert real.stat().st_mode & 0o777 == 0o640


def test_settings_that_came_from_no_file_are_not_changed_in_one(tmp_path):
    async def main():
        engine = Engine(Settings(core=CoreSettings(output_folder=str(tmp_path)), root=tmp_path), entry_points=[])
        await engine.start()
        (tmp_path / "settings.toml").write_text("[core]\nretention_days = 5\n")
        try:
            with pytest.raises(SettingsError, match="no settings file"):
                await engine.runtime.change_settings({"core.retention_days": 7})
            await asyncio.sleep(1.2)
            assert engine.settings.core.retention_days == 30
            assert not engine.stopping
        finally:
            await engine.stop()
        assert engine.stopping
        assert [item async for item in engine.follow()] == []

    asyncio.run(main())
