"""How a table of settings becomes a model, and how a wrong value is reported: in sentences that never quote it.

A table comes from files (typed by TOML) and from the environment (raw text).  Text from the environment gets the type
of its field: a text or secret field takes it unchanged, so ``HL7CORE_..._AUTH_HEADER=0123`` keeps its zero.
"""

from __future__ import annotations

import difflib
import tomllib
import types
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from hl7core.errors import SettingsError

__all__ = ["is_secret", "nearest", "secret_keys", "validate_table"]

Model = TypeVar("Model", bound=BaseModel)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" for the known name closest to ``name``, or "" if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def validate_table(
    model: type[Model],
    name: str,
    table: Mapping[str, Any],
    env_raw: Mapping[str, str] | None = None,
    origins: Mapping[str, str] | None = None,
) -> Model:
    """Return ``table`` as a ``model``; ``name`` is the table's name, ``core`` or ``plugins.NAME``.

    By dotted key, ``env_raw`` has the raw text of values from the environment, and ``origins`` where each value came
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
    """Return whether the option at ``path`` of ``model`` is a secret."""
    return _wants(model, path) == "secret"


def secret_keys(model: type[BaseModel], name: str) -> frozenset[str]:
    """Return the dotted keys of the secrets in the table ``name``, whose model is ``model``."""
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
    """Parse a value of the environment as TOML; if it is not valid TOML it stays text, which pydantic then refuses."""
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
    """Yield the types in ``annotation``, with unions and ``Annotated`` unwrapped."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _annotations(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _annotations(part)
    else:
        yield annotation


def _wants(model: type[BaseModel], path: tuple[str, ...]) -> str:
    """Return what the option at ``path`` takes: secret, text, bool, int, float, other, or "" if it does not exist."""
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
        least = context["min_length"]
        rule = "must not be empty" if least == 1 else f"must have at least {least} characters"
    elif kind == "string_pattern_mismatch":
        rule = f"must match {context['pattern']}"
    elif kind == "value_error":
        rule = str(context["error"])
    else:
        rule = item["msg"].replace("Input should", "must").replace("must be a valid", "must be a")
        rule = rule[:1].lower() + rule[1:]
    return _sentence(name, ".".join(path), rule, origins)


def _bounds(model: type[BaseModel], path: tuple[str, ...]) -> str:
    """Return both bounds of a number, not only the one that was broken."""
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
