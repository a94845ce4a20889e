import os
import stat
import threading
import tomllib

import pytest
from pydantic import SecretStr

from hl7core.errors import SettingsError
from hl7core.settings.file import change, template
from hl7core.settings.model import CoreSettings
from hl7core.settings.reading import read
from hl7core.settings.validation import secret_keys
from settings.tables import Rest, rest


def test_a_change_keeps_comments_and_order_and_what_it_does_not_name(file):
    file.write_text("# mine\n[core] # here\nretention_days = 30 # a month\n\n[plugins.rest]\n# where\nendpoint = 'a'\n")
    change(file, {"core.retention_days": 14, "plugins.rest.backlog": False, "plugins.json_store.enabled": True})
    assert file.read_text() == (
        "# mine\n[core] # here\nretention_days = 14 # a month\n\n[plugins.rest]\n# where\nendpoint = 'a'\n"
        "backlog = false\n\n[plugins.json_store]\nenabled = true\n"
    )


def test_a_change_makes_the_file_if_there_is_none(file):
    change(file, {"plugins.rest.enabled": True, "core.store": "sqlite_store"})
    settings = read(file)
    assert settings.core.store == "sqlite_store"
    assert settings.plugins["rest"] == {"enabled": True}


def test_none_removes_a_key(file):
    file.write_text("[core]\nretention_days = 3\n")
    change(file, {"core.retention_days": None, "plugins.rest.endpoint": None})
    assert tomllib.loads(file.read_text()) == {"core": {}}


def test_a_key_is_changed_as_the_file_spells_it(file):
    file.write_text("[Core]\nRetention_Days = 3\n")
    change(file, {"core.retention_days": 4})
    assert file.read_text() == "[Core]\nRetention_Days = 4\n"


@pytest.mark.parametrize(
    "text", ["core.retention_days = 3\n", "core = { retention_days = 3 }\n", "[core]\n[plugins]\n"]
)
def test_every_spelling_of_a_table_can_be_changed(file, text):
    file.write_text(text)
    change(file, {"core.retention_days": 4, "core.store": "x", "plugins.a.b": 1})
    settings = read(file)
    assert (settings.core.retention_days, settings.core.store) == (4, "x")
    assert settings.plugins["a"] == {"b": 1}


def test_a_secret_goes_to_its_own_private_file_and_leaves_the_other(file, folder):
    file.write_text('[plugins.rest]\nauth_header = "old"\nendpoint = "x"\n')
    (folder / ".secrets.toml").write_text("# keep\n")
    (folder / ".secrets.toml").chmod(0o644)
    change(file, {"plugins.rest.auth_header": SecretStr("new")})
    assert "auth_header" not in file.read_text()
    assert stat.S_IMODE((folder / ".secrets.toml").stat().st_mode) == 0o600
    assert (folder / ".secrets.toml").read_text().startswith("# keep\n")
    assert rest(read(file)).auth_header.get_secret_value() == "new"
    change(file, {"plugins.rest.auth_header": "newer"}, secrets=secret_keys(Rest, "plugins.rest"))
    assert rest(read(file)).auth_header.get_secret_value() == "newer"
    assert "newer" not in file.read_text()


def test_a_change_keeps_the_mode_and_the_link(file, folder):
    real = folder / "real.toml"
    real.write_text("[core]\n")
    real.chmod(0o640)
    file.symlink_to(real)
    change(file, {"core.retention_days": 4})
    assert file.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert "retention_days = 4" in real.read_text()


@pytest.mark.parametrize("key", ["core", "plugins.rest", "other.x", "core.", "plugins..x"])
def test_a_change_of_something_that_is_not_an_option_is_refused(file, key):
    file.write_text("[core]\n")
    with pytest.raises(SettingsError, match="no such setting"):
        change(file, {key: 1})
    assert file.read_text() == "[core]\n"


@pytest.mark.parametrize("text", ["[core", "[core]\nx = '", "plugins.rest = true\n"])
def test_a_file_that_is_wrong_is_not_changed(file, text):
    file.write_text(text)
    with pytest.raises(SettingsError, match="fix"):
        change(file, {"plugins.rest.enabled": True})
    assert file.read_text() == text


def test_a_change_that_cannot_be_written_leaves_the_old_file(file, monkeypatch):
    file.write_text("[core]\n")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SettingsError, match="No space left"):
        change(file, {"core.retention_days": 4})
    assert file.read_text() == "[core]\n"
    assert [path.name for path in file.parent.iterdir()] == ["settings.toml"]


def test_changes_from_many_threads_are_all_kept(file):
    file.write_text("")
    threads = [threading.Thread(target=change, args=(file, {f"plugins.p{n}.x": n})) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {table["x"] for table in read(file).plugins.values()} == set(range(8))


def test_the_template_is_valid_shows_each_setting_and_no_secret(file):
    text = template({"rest": Rest})
    file.write_text(text)
    assert read(file).core == CoreSettings()
    shown = "\n".join(line[2:] if " = " in line and line.startswith("# ") else line for line in text.splitlines())
    uncommented = "\n".join(line for line in shown.splitlines() if not line.startswith("#") and "__" not in line)
    tables = tomllib.loads(uncommented)
    assert set(tables["core"]) == set(CoreSettings.model_fields)
    assert CoreSettings.model_validate(tables["core"]) == CoreSettings()
    assert set(tables["plugins"]["rest"]) == set(Rest.model_fields)
    assert tables["plugins"]["rest"]["auth_header"] == ""
    assert all(len(line) <= 120 for line in text.splitlines())
