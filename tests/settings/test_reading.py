import os
import stat
import subprocess
import sys
import threading
import tomllib

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import Field, SecretStr

from hl7core.contract import PluginSettings
from hl7core.errors import SettingsError
from hl7core.settings.reading import (
    CoreSettings,
    Settings,
    change,
    find,
    read,
    secret_keys,
    shadowed,
    template,
    validate_table,
)


class Rest(PluginSettings):
    """A table with one option of each kind."""

    endpoint: str = Field("", description="Where to.")
    auth_header: SecretStr = Field(SecretStr(""), description="Sent with each request.")
    concurrency: int = Field(2, ge=1, le=16, description="At once.")
    timeout: float = Field(30.0, gt=0, description="Seconds.")
    backlog: bool = Field(True, description="Old ones too.")
    headers: dict[str, str] = Field(default_factory=dict, description="More of them.")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("HL7CORE_", "DYNACONF_")) or name.endswith("_FOR_DYNACONF"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def file(folder):
    return folder / "settings.toml"


def problems(file):
    with pytest.raises(SettingsError) as caught:
        read(file)
    return caught.value.problems


def attempt(file):
    """The settings, or the SettingsError; anything else it raises is a defect."""
    try:
        return read(file)
    except SettingsError as error:
        return error


def rest(settings):
    return validate_table(
        Rest,
        "plugins.rest",
        settings.plugins["rest"],
        settings.environment,
        settings.origins,
    )


# What is in force.


def test_without_a_file_everything_is_at_its_default(folder):
    settings = read(None)
    assert settings.core == CoreSettings()
    assert settings.path is None
    assert settings.root == folder
    assert settings.output_folder == folder / "docs"
    assert not settings.origins


def test_the_data_folder_starts_at_the_settings_file_not_at_the_working_folder(file, tmp_path, monkeypatch):
    file.write_text('[core]\noutput_folder = "data/../kept"\n')
    monkeypatch.chdir(tmp_path)
    assert read(file).output_folder == file.parent / "kept"
    assert read(file).data_folder == file.parent / "kept"


def test_an_absolute_data_folder_stays(file):
    file.write_text('[core]\noutput_folder = "/var/lib/hl7core"\n')
    assert str(read(file).output_folder) == "/var/lib/hl7core"


def test_the_stronger_wins_and_the_rest_of_the_table_stays(file, folder, monkeypatch):
    file.write_text('[plugins.rest]\nendpoint = "file"\nconcurrency = 3\nauth_header = "file"\ntimeout = 1\n')
    (folder / ".secrets.toml").write_text('[plugins.rest]\nauth_header = "secrets"\nendpoint = "secrets"\n')
    (folder / "settings.local.toml").write_text('[plugins.rest]\nendpoint = "local"\ntimeout = 2\n')
    monkeypatch.setenv("HL7CORE_PLUGINS__REST__TIMEOUT", "3")
    settings = read(file, {"plugins.rest.backlog": False})
    model = rest(settings)
    assert model.endpoint == "local"
    assert model.auth_header.get_secret_value() == "secrets"
    assert (model.concurrency, model.timeout, model.backlog) == (3, 3.0, False)
    assert settings.origins == {
        "plugins.rest.endpoint": str(folder / "settings.local.toml"),
        "plugins.rest.auth_header": str(folder / ".secrets.toml"),
        "plugins.rest.concurrency": str(file),
        "plugins.rest.timeout": "HL7CORE_PLUGINS__REST__TIMEOUT",
        "plugins.rest.backlog": "the command line",
    }


def test_the_command_line_outranks_the_environment(file, monkeypatch):
    file.write_text("")
    monkeypatch.setenv("HL7CORE_CORE__STORE", "12")
    settings = read(file, {"core.store": "sqlite_store", "core.retention_days": 7})
    assert settings.core.store == "sqlite_store"
    assert settings.core.retention_days == 7
    assert not settings.environment


def test_an_override_that_names_no_setting_is_refused(file):
    file.write_text("")
    with pytest.raises(SettingsError, match=r"nonsense\.x: no such setting"):
        read(file, {"nonsense.x": 1})


def test_table_and_option_names_are_read_without_regard_to_case_and_values_are_not(file):
    file.write_text('[CORE]\nLIS_Address = ""\n[Plugins.Rest]\nEndPoint = "http://Host/PATH"\n')
    assert rest(read(file)).endpoint == "http://Host/PATH"


def test_names_inside_an_option_stay_as_written(file):
    file.write_text('[plugins.rest.headers]\nX-Site = "a"\nitems = "b"\nupdate = "c"\n')
    assert rest(read(file)).headers == {"X-Site": "a", "items": "b", "update": "c"}


def test_a_snapshot_cannot_be_changed_and_does_not_show_secrets(file, monkeypatch):
    file.write_text('[plugins.rest]\nauth_header = "canary-file"\n')
    monkeypatch.setenv("HL7CORE_PLUGINS__REST__ENDPOINT", "canary-env")
    settings = read(file)
    assert "canary" not in repr(settings)
    assert "canary" not in str(settings)
    with pytest.raises(AttributeError):
        settings.core = CoreSettings()
    with pytest.raises(TypeError):
        settings.plugins["rest"]["endpoint"] = "x"


def test_settings_can_be_made_without_a_file_for_tests():
    assert Settings().core.store == "json_store"


# Where the file is.


def test_find_takes_the_first_there_is(folder, tmp_path, monkeypatch):
    assert find(None) is None
    user = tmp_path / "config" / "hl7core"
    user.mkdir(parents=True)
    (user / "settings.toml").write_text("")
    assert find(None) == user / "settings.toml"
    (folder / "settings.toml").write_text("")
    assert find(None) == folder / "settings.toml"
    (folder / "other.toml").write_text("")
    monkeypatch.setenv("HL7CORE_SETTINGS", "other.toml")
    assert find(None) == folder / "other.toml"
    assert find("settings.toml") == folder / "settings.toml"


@pytest.mark.parametrize("by", ["--settings", "HL7CORE_SETTINGS"])
def test_a_file_that_was_named_must_exist(folder, monkeypatch, by):
    if by == "HL7CORE_SETTINGS":
        monkeypatch.setenv(by, "missing.toml")
    with pytest.raises(SettingsError, match=f"{by}: there is no settings file"):
        find("missing.toml" if by == "--settings" else None)


def test_a_file_that_is_gone_is_an_error_not_the_defaults(file):
    assert "there is no such file" in problems(file)[0]


# What is wrong, in sentences.


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[core]\nretention_days = 400", "core.retention_days: must be at least 1 and at most 365"),
        ("[core]\nretention_days = '30x'", "core.retention_days: must be a whole number"),
        ("[core]\nretention_days = true", "core.retention_days: must be a number, not true or false"),
        ("[core]\nsilence = nan", "core.silence: must be a"),
        ("[core]\nstore = 5", "core.store: must be text, in quotes"),
        ("[core]\nstroe = 'x'", "core.stroe: no such setting; did you mean store?"),
        ("[core]\nqqq = 'x'", "core.qqq: no such setting (set in"),
        ("[core]\nenable_persistence = 'maybe'", "core.enable_persistence: must be true or false"),
        ("[core]\nlis_address = '10.0.0.1, host'", "core.lis_address: must be empty, or IP addresses"),
        ("[core]\nack_marker = 5", "core: start_marker, ack_marker and end_marker must differ"),
        ("[core]\noutput_folder = ''", "core.output_folder: must not be empty"),
        ("[plugin.rest]\nenabled = true", "plugin: no such table; did you mean plugins?"),
        ("core = 5", "core: must be a table"),
        ("[plugins]\nrest = true", "plugins.rest: must be a table, [plugins.rest] with enabled = true or false"),
        ("dynaconf_include = ['/etc/passwd']", "dynaconf_include: no such table: keys that steer dynaconf"),
        ("[core]\ndynaconf_merge = false", "core.dynaconf_merge: no such setting: keys that steer dynaconf"),
        ("[plugins.rest]\ndynaconf_merge = false", "plugins.rest.dynaconf_merge: no such setting"),
        ("[core]\nstore = 'a'\nSTORE = 'b'", "core.store: is given twice"),
        ("[core", "not valid TOML at"),
        ("[core]\nstore = 'canary", "not valid TOML at"),
        ("[core]\nx = " + "[" * 5000, "nested too deeply"),
        ("[core]\nx = " + "9" * 5000, "not valid TOML at"),
    ],
)
def test_each_wrong_value_has_its_sentence(file, text, sentence):
    file.write_text(text)
    found = problems(file)
    assert len(found) == 1, found
    assert sentence in found[0]
    assert "canary" not in found[0]


def test_every_wrong_value_is_named_at_once_with_its_origin(file, monkeypatch):
    file.write_text("[core]\nretention_days = 0\n")
    monkeypatch.setenv("HL7CORE_CORE__LIS_PORT", "70000")
    assert problems(file) == (
        f"core.retention_days: must be at least 1 and at most 365 (set in {file})",
        "core.lis_port: must be at least 0 and at most 65535 (set in HL7CORE_CORE__LIS_PORT)",
    )


def test_a_file_that_is_not_utf8_is_named_with_its_line(file):
    file.write_bytes(b'[core]\n# caf\xe9\nstore = "x"\n')
    assert problems(file) == (f"{file}: line 2 is not UTF-8 text",)


def test_a_byte_order_mark_does_no_harm(file):
    file.write_bytes(b"\xef\xbb\xbf[core]\nretention_days = 3\n")
    assert read(file).core.retention_days == 3


def test_a_file_beyond_all_measure_is_refused(file):
    file.write_bytes(b"#" * 2_000_000)
    assert "is larger than" in problems(file)[0]


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"concurrency": 17}, "plugins.rest.concurrency: must be at least 1 and at most 16"),
        ({"timeout": 0}, "plugins.rest.timeout: must be more than 0"),
        ({"backlog": "perhaps"}, "plugins.rest.backlog: must be true or false"),
        ({"endpiont": "x"}, "plugins.rest.endpiont: no such setting; did you mean endpoint?"),
        ({"headers": {"a": 1}}, "plugins.rest.headers.a: must be text, in quotes"),
        ({"headers": 5}, "plugins.rest.headers: must be a table"),
        ({"auth_header": 4711}, "plugins.rest.auth_header: must be text, in quotes"),
        ({"auth_header": ["canary"]}, "plugins.rest.auth_header: must be text, in quotes"),
    ],
)
def test_a_plugins_table_is_judged_in_the_same_words(table, sentence):
    with pytest.raises(SettingsError) as caught:
        validate_table(Rest, "plugins.rest", table)
    assert caught.value.problems == (sentence,)
    assert "canary" not in repr(caught.value.problems)


# The environment, and the traps of dynaconf.


@pytest.mark.parametrize(
    "raw", ["12345", "2026-01-01", "true", "0x10", "", "@jinja {{ 1 }}", "{a=1}", "[1]", "0123", " x "]
)
def test_text_and_secrets_of_the_environment_are_taken_as_they_stand(file, monkeypatch, raw):
    file.write_text("")
    monkeypatch.setenv("HL7CORE_PLUGINS__REST__ENDPOINT", raw)
    monkeypatch.setenv("HL7CORE_PLUGINS__REST__AUTH_HEADER", raw)
    monkeypatch.setenv("HL7CORE_PLUGINS__REST__HEADERS__X", raw)
    model = rest(read(file))
    assert model.endpoint == raw
    assert model.auth_header.get_secret_value() == raw
    assert model.headers == {"x": raw}


@pytest.mark.parametrize(
    ("option", "raw", "value"),
    [
        ("backlog", "false", False),
        ("backlog", "False", False),
        ("backlog", "0", False),
        ("concurrency", "0x10", 16),
        ("concurrency", " 7 ", 7),
        ("timeout", "1.5", 1.5),
        ("timeout", "2", 2.0),
    ],
)
def test_numbers_and_switches_of_the_environment_are_typed(file, monkeypatch, option, raw, value):
    file.write_text("")
    monkeypatch.setenv(f"HL7CORE_PLUGINS__REST__{option.upper()}", raw)
    assert getattr(rest(read(file)), option) == value


@pytest.mark.parametrize("raw", ["many", "1\nbacklog = false", "", "[" * 3000])
def test_what_is_no_number_is_refused(file, monkeypatch, raw):
    file.write_text("")
    monkeypatch.setenv("HL7CORE_PLUGINS__REST__CONCURRENCY", raw)
    with pytest.raises(
        SettingsError, match=r"plugins.rest.concurrency: must be a whole number \(set in HL7CORE_PLUGINS"
    ):
        rest(read(file))


def test_other_variables_of_ours_and_of_dynaconf_are_left_alone(file, folder, monkeypatch):
    file.write_text("[core]\nretention_days = 5\n")
    (folder / "evil.toml").write_text("[core]\nretention_days = 9\n")
    monkeypatch.setenv("HL7CORE_TRACE_HOOKS", "1")
    monkeypatch.setenv("HL7CORE_SETTINGS", str(file))
    monkeypatch.setenv("SETTINGS_FILE_FOR_DYNACONF", str(folder / "evil.toml"))
    monkeypatch.setenv("AUTO_CAST_FOR_DYNACONF", "true")
    monkeypatch.setenv("DYNACONF_CORE__RETENTION_DAYS", "11")
    monkeypatch.setenv("PROJECT_ROOT", str(folder))
    assert read(file).core.retention_days == 5
    assert os.environ["SETTINGS_FILE_FOR_DYNACONF"]
    assert os.environ["PROJECT_ROOT"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("HL7CORE_PLUGINS__JSON_STORE", "name one option, as in HL7CORE_PLUGINS__JSON_STORE__ENABLED=false"),
        ("HL7CORE_PLUGINS", "name one option, as in HL7CORE_PLUGINS__NAME__ENABLED=false"),
        ("HL7CORE_CORE", "name one option, as in HL7CORE_CORE__STORE=json_store"),
        ("HL7CORE_CORE__", "name one option"),
        ("HL7CORE_CORE__STROE", "core.stroe: no such setting; did you mean store?"),
        ("HL7CORE_CORE__DYNACONF_MERGE", "keys that steer dynaconf"),
    ],
)
def test_a_variable_that_names_no_option_is_refused_with_what_to_write(file, monkeypatch, name, sentence):
    file.write_text("")
    monkeypatch.setenv(name, "false")
    assert sentence in problems(file)[0]


def test_a_variable_cannot_be_an_option_and_a_table(file, monkeypatch):
    file.write_text("")
    monkeypatch.setenv("HL7CORE_PLUGINS__REST__HEADERS", "a")
    monkeypatch.setenv("HL7CORE_PLUGINS__REST__HEADERS__X", "b")
    assert "part of it is set as a whole" in problems(file)[0]


@pytest.mark.parametrize(
    "value",
    [
        "@jinja {{ 1 + 1 }}",
        "@format {env[HOME]}",
        "@read_file /etc/passwd",
        "@del",
        "@merge x",
        "@int 5",
        "@none",
        "a__b",
    ],
)
def test_a_value_is_never_evaluated(file, value):
    file.write_text(f'[plugins.rest]\nendpoint = "{value}"\n')
    assert rest(read(file)).endpoint == value


def test_nothing_beside_the_settings_file_is_executed_or_included(file, folder, tmp_path):
    file.write_text("[core]\nretention_days = 5\n")
    (folder / "dynaconf_hooks.py").write_text("raise SystemExit('executed')\n")
    (folder / ".env").write_text("HL7CORE_CORE__RETENTION_DAYS=7\n")
    (tmp_path / ".secrets.toml").write_text("[core]\nretention_days = 9\n")
    assert read(file).core.retention_days == 5


def test_a_folder_whose_name_looks_like_a_pattern_is_only_a_folder(tmp_path):
    odd = tmp_path / "a[b]*"
    odd.mkdir()
    (odd / "settings.toml").write_text("[core]\nretention_days = 5\n")
    assert read(odd / "settings.toml").core.retention_days == 5


def test_secrets_that_others_may_read_are_told(file, folder):
    file.write_text("")
    secrets = folder / ".secrets.toml"
    secrets.write_text('[plugins.rest]\nauth_header = "x"\n')
    secrets.chmod(0o644)
    assert "chmod 600" in read(file).notices[0]
    secrets.chmod(0o600)
    assert read(file).notices == ()


def test_reading_in_many_threads_at_once_mixes_nothing_up(folder):
    wrong = []

    def work(days):
        path = folder / f"{days}.toml"
        path.write_text(f"[core]\nretention_days = {days}\n")
        wrong.extend(days for _ in range(10) if read(path).core.retention_days != days)

    threads = [threading.Thread(target=work, args=(days,)) for days in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


NAMES = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=8).filter(
    lambda name: not name.startswith("dynaconf")
)
VALUES = st.one_of(st.integers(-9, 9), st.booleans(), st.text("@ab {}.", max_size=6))
TABLES = st.dictionaries(NAMES, VALUES, max_size=4)


@given(first=st.dictionaries(NAMES, TABLES, max_size=3), second=st.dictionaries(NAMES, TABLES, max_size=3))
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_two_files_merge_key_by_key_whatever_their_names(tmp_path, first, second):
    path = tmp_path / "settings.toml"
    for target, tables in ((path, first), (tmp_path / "settings.local.toml", second)):
        target.unlink(missing_ok=True)
        target.write_text("")
        change(
            target, {f"plugins.{name}.{key}": value for name, table in tables.items() for key, value in table.items()}
        )
    expected = {name: table for name, table in first.items() if table}
    for name, table in second.items():
        if table:
            expected[name] = expected.get(name, {}) | table
    assert {name: dict(table) for name, table in read(path).plugins.items()} == expected


WHOLE = """# settings of the ward
[core]
store = "json_store"
retention_days = 14
lis_address = "10.0.0.1, 10.0.0.2"
silence = 12.5

[plugins.rest]
enabled = true
endpoint = "http://lis/\u00e4"
headers = { site = "A", when = 2026-01-01 }
""".encode()


@pytest.mark.parametrize("cut", range(len(WHOLE) + 1))
def test_a_file_cut_anywhere_is_either_valid_or_a_settings_error(file, cut):
    file.write_bytes(WHOLE[:cut])
    outcome = attempt(file)
    if isinstance(outcome, SettingsError):
        assert outcome.problems
        assert "http://" not in str(outcome)
    else:
        assert isinstance(outcome.core, CoreSettings)


@given(st.binary(max_size=200))
@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_either_valid_or_a_settings_error(tmp_path, garbage):
    path = tmp_path / "settings.toml"
    path.write_bytes(b"[core]\n" + garbage)
    outcome = attempt(path)
    assert not isinstance(outcome, SettingsError) or outcome.problems


# Writing it.


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


def test_none_takes_a_key_out(file):
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
def test_a_change_of_no_option_is_refused(file, key):
    file.write_text("[core]\n")
    with pytest.raises(SettingsError, match="no such setting"):
        change(file, {key: 1})
    assert file.read_text() == "[core]\n"


@pytest.mark.parametrize("text", ["[core", "[core]\nx = '", "plugins.rest = true\n"])
def test_a_file_that_is_wrong_is_not_changed(file, text):
    file.write_text(text)
    with pytest.raises(SettingsError, match="correct"):
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


def test_a_change_that_something_stronger_would_hide_is_told(file, folder, monkeypatch):
    file.write_text("[core]\nretention_days = 3\n")
    (folder / "settings.local.toml").write_text("[core]\nlis_port = 1\n")
    monkeypatch.setenv("HL7CORE_CORE__STORE", "x")
    told = shadowed(read(file), {"core.retention_days": 1, "core.store": "y", "core.lis_port": 2, "core.silence": 3})
    assert [text.split(",")[0] for text in told] == [
        "core.store: is set in HL7CORE_CORE__STORE",
        f"core.lis_port: is set in {folder / 'settings.local.toml'}",
    ]


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


def test_importing_it_is_cheap():
    code = (
        "import sys, hl7core.settings.reading; print([name for name in "
        "('dynaconf', 'tomlkit', 'platformdirs', 'scapy') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
