"""What ``[core]`` may say, and how a table becomes a model: in sentences, never quoting a value.

A table comes from files (typed by TOML) and from the environment (raw text).  Text from the environment is typed by the
field it is for: a text or secret field takes it as it stands, so that ``HL7CORE_..._AUTH_HEADER=0123`` keeps its zero.
"""

from __future__ import annotations

import difflib
import ipaddress
import tomllib
import types
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Annotated, Any, Literal, Self, TypeVar, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretBytes,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from hl7core.errors import SettingsError
from hl7core.wire.connection import SECOND, DecoderOptions
from hl7core.wire.pins import parse_pins

__all__ = ["CoreSettings", "is_secret", "nearest", "secret_keys", "validate_table"]

Model = TypeVar("Model", bound=BaseModel)


class CoreSettings(BaseModel):
    """The table ``[core]``: the settings of the engine itself."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    output_folder: str = Field("docs", min_length=1)
    """The data folder; a relative path starts at the folder of settings.toml. Sessions go to sessions/ in it."""
    store: str = Field("json_store", pattern=r"^[a-z][a-z0-9_]*$")
    """The plugin that stores new sessions. Naming a store here enables it."""
    enable_persistence: bool = True
    """Whether to save sessions. If false, nothing is saved, submitted or cleaned up."""
    retention_days: int = Field(30, ge=1, le=365)
    """How many days to keep a session, counted from its first save."""
    memory_sessions: int = Field(1000, ge=1, le=10_000_000)
    """How many stored sessions to keep in memory for fast display."""
    memory_bytes: int = Field(268_435_456, ge=1_048_576)
    """How many bytes of sessions to keep in memory."""
    unsaved_sessions: int = Field(10_000, ge=1, le=10_000_000)
    """How many unsaved sessions may wait in memory while the store is down. Beyond that the oldest are dropped; their
    number is reported."""
    device_address: str = ""
    """The analyzers: IP addresses or networks (10.1.0.0/24), separated by commas. Auto-detected when empty."""
    lis_address: str = ""
    """The LIS: IP addresses or networks, separated by commas. Auto-detected when empty."""
    lis_port: int = Field(0, ge=0, le=65535)
    """The TCP port of the LIS. 0 means any port."""
    protocols: str = ""
    """Known protocols as PLACE=PROTOCOL pairs, for example "10.1.2.3:4000=lis01, :2575=mllp". A place is an IP address
    or network, a :port, or both. A protocol is mllp, lis01, plain, or the dialect of an enabled plugin. Everywhere else
    the protocol is detected from the first bytes."""
    start_marker: int = Field(0x05, ge=0, le=255)
    """The byte that starts a conversation in the plain variant (ENQ)."""
    ack_marker: int = Field(0x06, ge=0, le=255)
    """The byte that acknowledges a message in the plain variant (ACK)."""
    end_marker: int = Field(0x04, ge=0, le=255)
    """The byte that ends a conversation in the plain variant (EOT)."""
    ack_timeout: float = Field(60.0, gt=0, le=86_400)
    """How many seconds an MLLP message waits for its acknowledgement, in packet time."""
    silence: float = Field(30.0, gt=0, le=86_400)
    """After how many seconds without a byte a LIS01 or plain session ends, in packet time."""
    max_message: int = Field(16_777_216, ge=1024, le=1_073_741_824)
    """The largest message in bytes. Longer ones are truncated and marked."""
    max_connections: int = Field(50_000, ge=1, le=10_000_000)
    """How many connections to follow at once. Beyond that the least recently used one is dropped."""
    reassembly_bytes: int = Field(268_435_456, ge=1_048_576)
    """How many bytes may wait, over all connections, in each of four ways: for a packet that is out of order, for the
    protocol to be recognised, for the rest of a message, for an answer. Beyond that, the connections holding most are
    cut back; this is marked and counted. The sessions of one connection may hold a quarter of it, and always one
    message."""
    idle_timeout: float = Field(86_400.0, gt=0, le=31_536_000)
    """After how many seconds without data a connection is dropped, in packet time. If it continues, its protocol is
    detected again."""

    @field_validator("device_address", "lis_address")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for part in value.split(","):
            if part.strip():
                try:
                    ipaddress.ip_network(part.strip(), strict=False)
                except ValueError:
                    raise ValueError(
                        "must be empty, or IP addresses or networks separated by commas, as in 10.1.0.7, 10.2.0.0/24"
                    ) from None
        return value

    @field_validator("protocols")
    @classmethod
    def _protocols(cls, value: str) -> str:
        parse_pins(value)
        return value

    @model_validator(mode="after")
    def _distinct_markers(self) -> Self:
        if len({self.start_marker, self.ack_marker, self.end_marker}) < 3:
            raise ValueError("start_marker, ack_marker and end_marker must differ from each other")
        return self

    def decoder_options(self, sensor: str = "") -> DecoderOptions:
        """Return the options for the decoder.  ``sensor`` names the machine that captures."""
        return DecoderOptions(
            device_addresses=_parts(self.device_address),
            lis_addresses=_parts(self.lis_address),
            lis_port=self.lis_port,
            start_marker=self.start_marker,
            ack_marker=self.ack_marker,
            end_marker=self.end_marker,
            ack_timeout_ns=int(self.ack_timeout * SECOND),
            silence_ns=int(self.silence * SECOND),
            max_message=self.max_message,
            max_connections=self.max_connections,
            reassembly_bytes=self.reassembly_bytes,
            sensor=sensor,
            protocols=parse_pins(self.protocols),
            idle_ns=int(self.idle_timeout * SECOND),
        )


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" for the known name most like ``name``, or ""."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def validate_table(
    model: type[Model],
    name: str,
    table: Mapping[str, Any],
    env_raw: Mapping[str, str] | None = None,
    origins: Mapping[str, str] | None = None,
) -> Model:
    """Make ``table`` (``core`` or ``plugins.NAME``, which is ``name``) a ``model``.

    ``env_raw`` has the raw text of what the environment gave, by dotted key, and ``origins`` where each value came
    from.  Raises SettingsError with a sentence for each wrong value.
    """
    typed = _typed(model, name, table, env_raw or {})
    problems = [
        _sentence(name, key, "must be a number, not true or false", origins)
        for key, value in typed.items()
        if isinstance(value, bool) and _wants(model, (key,)) in ("int", "float")
    ]
    if problems:
        raise SettingsError(*problems)
    try:
        return model.model_validate(typed)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        raise SettingsError(*dict.fromkeys(_problem(model, name, item, origins) for item in details)) from None


def is_secret(model: type[BaseModel], path: tuple[str, ...]) -> bool:
    """Say whether the option at ``path`` of ``model`` is a secret."""
    return _wants(model, path) == "secret"


def secret_keys(model: type[BaseModel], name: str) -> frozenset[str]:
    """Return the dotted keys of the secrets that stand in the table ``name``."""
    return frozenset(f"{name}.{field}" for field in model.model_fields if is_secret(model, (field,)))


def _typed(model: type[BaseModel], name: str, table: Mapping[str, Any], env_raw: Mapping[str, str]) -> dict[str, Any]:
    def walk(value: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, item in value.items():
            here = (*path, key)
            raw = env_raw.get(".".join((name, *here)))
            if isinstance(item, Mapping):
                made[key] = walk(item, here)
            elif raw is not None:
                made[key] = raw if _wants(model, here) in ("text", "secret", "") else _from_text(raw)
            else:
                made[key] = item
        return made

    return walk(table, ())


def _from_text(raw: str) -> Any:
    """Read a value of the environment as TOML; what is none stays text, for pydantic to judge."""
    text = raw.strip()
    if "\n" in text or "\r" in text:
        return raw
    if text.lower() in ("true", "false"):
        text = text.lower()
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return raw


def _annotations(annotation: Any) -> Iterator[Any]:
    """Yield the types that ``annotation`` is made of: unions and ``Annotated`` opened."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _annotations(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _annotations(part)
    else:
        yield annotation


def _wants(model: type[BaseModel], path: tuple[str, ...]) -> str:
    """Say what the option at ``path`` takes: secret, text, bool, int, float, other, or "" if there is none."""
    annotations: list[Any] = [model]
    for key in path:
        inner: list[Any] = []
        for annotation in annotations:
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                field = annotation.model_fields.get(key)
                if field is not None:
                    inner.extend(_annotations(field.annotation))
            elif get_origin(annotation) in (dict, Mapping) and len(get_args(annotation)) == 2:
                inner.extend(_annotations(get_args(annotation)[1]))
        annotations = inner
    if not annotations:
        return ""
    if any(item in (SecretStr, SecretBytes) for item in annotations):
        return "secret"
    for annotation in annotations:
        if get_origin(annotation) is Literal and any(isinstance(value, str) for value in get_args(annotation)):
            return "text"
        if isinstance(annotation, type) and issubclass(annotation, (str, bytes, Enum)):
            return "text"
    for kind in (bool, int, float):
        if kind in annotations:
            return kind.__name__
    return "other"


_RULES = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text, in quotes",
    "string_unicode": "must be valid UTF-8 text",
    "missing": "must be given",
    "list_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
}


def _problem(model: type[BaseModel], name: str, item: ErrorDetails, origins: Mapping[str, str] | None) -> str:
    path = tuple(str(part) for part in item["loc"])
    context = item.get("ctx", {})
    kind = item["type"]
    if kind == "extra_forbidden":
        known: Iterable[str] = model.model_fields if len(path) == 1 else ()
        return _sentence(name, ".".join(path), f"no such setting{nearest(path[-1], known)}", origins)
    if path and is_secret(model, path) and kind not in ("missing", "string_type"):
        rule = "is not valid (a secret, so not shown)"
    elif kind in _RULES:
        rule = _RULES[kind]
    elif kind in ("greater_than_equal", "less_than_equal", "greater_than", "less_than"):
        rule = _bounds(model, path)
    elif kind in ("literal_error", "enum"):
        rule = f"must be {context['expected']}"
    elif kind == "string_too_short":
        rule = (
            "must not be empty" if context["min_length"] == 1 else f"must have {context['min_length']} letters or more"
        )
    elif kind == "string_pattern_mismatch":
        rule = f"must match {context['pattern']}"
    elif kind == "value_error":
        rule = str(context["error"])
    else:
        rule = item["msg"].replace("Input should", "must").replace("must be a valid", "must be a")
        rule = rule[:1].lower() + rule[1:]
    return _sentence(name, ".".join(path), rule, origins)


def _bounds(model: type[BaseModel], path: tuple[str, ...]) -> str:
    """Say the whole rule of a bounded number, not only the side that was broken."""
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    field = model.model_fields.get(path[0]) if len(path) == 1 else None
    found = [
        f"{word} {getattr(entry, side)}"
        for side, word in words.items()
        for entry in (field.metadata if field is not None else ())
        if getattr(entry, side, None) is not None
    ]
    return "must be " + (" and ".join(found) or "within its bounds")


def _sentence(name: str, key: str, rule: str, origins: Mapping[str, str] | None) -> str:
    dotted = f"{name}.{key}" if key else name
    origin = (origins or {}).get(dotted, "")
    return f"{dotted}: {rule}" + (f" (set in {origin})" if origin else "")
