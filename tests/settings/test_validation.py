import pytest

from hl7core.errors import SettingsError
from hl7core.settings.reading import read
from hl7core.settings.validation import validate_table
from settings.tables import Rest, problems, rest


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
        ("[core]\noutput_folder = ''", "core.output_folder: must not be empty"),
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
def test_a_plugins_table_gets_the_same_sentences(table, sentence):
    with pytest.raises(SettingsError) as caught:
        validate_table(Rest, "plugins.rest", table)
    assert caught.value.problems == (sentence,)
    assert "canary" not in repr(caught.value.problems)


@pytest.mark.parametrize(
    "raw", ["12345", "2026-01-01", "true", "0x10", "", "@jinja {{ 1 }}", "{a=1}", "[1]", "0123", " x "]
)
def test_text_and_secrets_from_the_environment_are_taken_unchanged(file, monkeypatch, raw):
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
def test_numbers_and_booleans_from_the_environment_are_typed(file, monkeypatch, option, raw, value):
    file.write_text("")
    monkeypatch.setenv(f"HL7CORE_PLUGINS__REST__{option.upper()}", raw)
    assert getattr(rest(read(file)), option) == value


@pytest.mark.parametrize("raw", ["many", "1\nbacklog = false", "", "[" * 3000])
def test_text_that_is_not_a_number_is_refused(file, monkeypatch, raw):
    file.write_text("")
    monkeypatch.setenv("HL7CORE_PLUGINS__REST__CONCURRENCY", raw)
    with pytest.raises(
        SettingsError, match=r"plugins.rest.concurrency: must be a whole number \(set in HL7CORE_PLUGINS"
    ):
        rest(read(file))
