"""``hl7core settings``: show, check and init."""

from shell import hl7core


def test_a_wrong_setting_is_exit_5_and_names_the_value_and_its_rule(tmp_path):
    (tmp_path / "settings.toml").write_text("[core]\nretention_days = 999\nmemory_sesions = 5\n")
    run = hl7core("settings", "check", cwd=tmp_path)
    assert run.returncode == 5
    assert "core.retention_days" in run.stderr
    assert "365" in run.stderr
    assert "memory_sessions" in run.stderr  # the nearest known name
    assert hl7core("sessions", "list", cwd=tmp_path).returncode == 5


def test_settings_show_says_where_each_value_came_from(tmp_path):
    (tmp_path / "settings.toml").write_text("[core]\nretention_days = 14\n")
    run = hl7core("settings", "show", "--origin", cwd=tmp_path, HL7CORE_CORE__SILENCE="45")
    assert f"retention_days = 14  # {tmp_path / 'settings.toml'}" in run.stdout
    assert "silence = 45.0  # HL7CORE_CORE__SILENCE" in run.stdout
    assert 'store = "json_store"  # default' in run.stdout


def test_settings_init_makes_a_private_data_folder(tmp_path):
    run = hl7core("settings", "init", "--file", "s/settings.toml", "--data-folder", "private", cwd=tmp_path)
    assert run.returncode == 0
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700
    assert hl7core("--settings", "s/settings.toml", "settings", "check", cwd=tmp_path).returncode == 0
    again = hl7core("settings", "init", "--file", "s/settings.toml", cwd=tmp_path)
    assert again.returncode == 5
    assert "already exists" in again.stderr


def test_a_store_of_record_that_is_switched_off_is_refused_in_words(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text("[plugins.json_store]\nenabled = false\n")
    checked = hl7core("settings", "check", cwd=tmp_path)
    sentence = (
        "plugins.json_store.enabled: must not be false while json_store is the store of record, so it stays enabled; "
        f"name another store in core.store first (set in {file})"
    )
    assert (checked.returncode, checked.stderr.splitlines()) == (5, [sentence])
    file.write_text('[core]\nstore = "sqlite_store"\n[plugins.json_store]\nenabled = false\n')
    assert hl7core("settings", "check", cwd=tmp_path).returncode == 0
    variable = {"HL7CORE_PLUGINS__SQLITE_STORE__ENABLED": "false"}
    checked = hl7core("settings", "check", cwd=tmp_path, **variable)
    assert checked.returncode == 5
    assert "(set in HL7CORE_PLUGINS__SQLITE_STORE__ENABLED)" in checked.stderr
