import os
import subprocess
import sys
import threading

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hl7core.errors import SettingsError
from hl7core.settings.file import change
from hl7core.settings.model import CoreSettings
from hl7core.settings.reading import Settings, find, read, shadowed
from settings.tables import problems, rest


def attempt(file):
    """The settings, or the SettingsError; anything else it raises is a defect."""
    try:
        return read(file)
    except SettingsError as error:
        return error


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


def test_the_command_line_overrides_the_environment(file, monkeypatch):
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


def test_find_returns_the_first_file_that_exists(folder, tmp_path, monkeypatch):
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
    with pytest.raises(SettingsError, match=f"{by}: settings file .+ not found"):
        find("missing.toml" if by == "--settings" else None)


def test_a_file_that_is_gone_is_an_error_not_the_defaults(file):
    assert "file not found" in problems(file)[0]


# What is wrong with a file.


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[plugin.rest]\nenabled = true", "plugin: no such table; did you mean plugins?"),
        ("core = 5", "core: must be a table"),
        ("[plugins]\nrest = true", "plugins.rest: must be a table, [plugins.rest] with enabled = true or false"),
        ("dynaconf_include = ['/etc/passwd']", "dynaconf_include: no such table: keys that configure dynaconf"),
        ("[core]\ndynaconf_merge = false", "core.dynaconf_merge: no such setting: keys that configure dynaconf"),
        ("[plugins.rest]\ndynaconf_merge = false", "plugins.rest.dynaconf_merge: no such setting"),
        ("[core]\nstore = 'a'\nSTORE = 'b'", "core.store: is set twice"),
        ("[core", "not valid TOML at"),
        ("[core]\nstore = 'canary", "not valid TOML at"),
        ("[core]\nx = " + "[" * 5000, "nested too deeply"),
        ("[core]\nx = " + "9" * 5000, "not valid TOML at"),
    ],
)
def test_each_error_in_a_file_has_its_sentence(file, text, sentence):
    file.write_text(text)
    found = problems(file)
    assert len(found) == 1, found
    assert sentence in found[0]
    assert "canary" not in found[0]


def test_a_file_that_is_not_utf8_is_named_with_its_line(file):
    file.write_bytes(b'[core]\n# caf\xe9\nstore = "x"\n')
    assert problems(file) == (f"{file}: line 2 is not UTF-8 text",)


def test_a_byte_order_mark_does_no_harm(file):
    file.write_bytes(b"\xef\xbb\xbf[core]\nretention_days = 3\n")
    assert read(file).core.retention_days == 3


def test_an_oversized_file_is_refused(file):
    file.write_bytes(b"#" * 2_000_000)
    assert "larger than" in problems(file)[0]


# The environment, and the traps of dynaconf.


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
        (
            "HL7CORE_PLUGINS__JSON_STORE",
            "set one option at a time, for example HL7CORE_PLUGINS__JSON_STORE__ENABLED=false",
        ),
        ("HL7CORE_PLUGINS", "set one option at a time, for example HL7CORE_PLUGINS__NAME__ENABLED=false"),
        ("HL7CORE_CORE", "set one option at a time, for example HL7CORE_CORE__STORE=json_store"),
        ("HL7CORE_CORE__", "set one option at a time"),
        ("HL7CORE_CORE__STROE", "core.stroe: no such setting; did you mean store?"),
        ("HL7CORE_CORE__DYNACONF_MERGE", "keys that configure dynaconf"),
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
    assert "a table that it belongs to is set to a single value" in problems(file)[0]


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


def test_secrets_that_other_users_can_read_are_reported(file, folder):
    file.write_text("")
    secrets = folder / ".secrets.toml"
    secrets.write_text('[plugins.rest]\nauth_header = "x"\n')
    secrets.chmod(0o644)
    assert "chmod 600" in read(file).notices[0]
    secrets.chmod(0o600)
    assert read(file).notices == ()


def test_reading_on_many_threads_at_once_mixes_nothing_up(folder):
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


def test_a_change_that_something_else_overrides_is_reported(file, folder, monkeypatch):
    file.write_text("[core]\nretention_days = 3\n")
    (folder / "settings.local.toml").write_text("[core]\nlis_port = 1\n")
    monkeypatch.setenv("HL7CORE_CORE__STORE", "x")
    told = shadowed(read(file), {"core.retention_days": 1, "core.store": "y", "core.lis_port": 2, "core.silence": 3})
    assert [text.split(",")[0] for text in told] == [
        "core.store: is set in HL7CORE_CORE__STORE",
        f"core.lis_port: is set in {folder / 'settings.local.toml'}",
    ]


def test_importing_it_is_cheap():
    code = (
        "import sys, hl7core.settings.reading; print([name for name in "
        "('dynaconf', 'tomlkit', 'platformdirs', 'scapy') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
