from collections.abc import Callable
from typing import Any

from hl7core.model.finding import Finding
from hl7core.model.session import Session

SOURCE: str
"""The SHA-256 of the sources that this was built from, in hexadecimal."""

class SessionLine:
    def __init__(
        self, content: Callable[[bytes], dict[str, str]], finding: Callable[[Finding], dict[str, Any]], version: str
    ) -> None: ...
    def __call__(self, session: Session, saved: bool) -> bytes | None: ...
