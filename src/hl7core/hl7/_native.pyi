from hl7core.model.session import Message

SOURCE: str
"""The SHA-256 of the sources that this was built from, in hexadecimal."""

def usual_keys(messages: tuple[Message, ...]) -> tuple[tuple[str, ...], ...] | None: ...
