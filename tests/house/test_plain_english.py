"""What people read is plain English: phrases that only this code ever used must not come back."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_EACH = r"(?:line|row|file|folder|thread|process|object|entry|figure|sentence|runtime|method|place|message|session)"
_OF = r"(?!second|minute|hour|day|week|month|year)[a-z]+"

BANNED = {
    rf"\ban? (?:JSON )?{_EACH} an? {_OF}\b": "one ... per ...",
    r"\bfor good\b": "permanently",
    r"\bwhole or (?:absent|not at all)\b": "written atomically; completely or not at all",
    r"\btold (?:of )?once\b": "reported once",
    r"\bcosts? nobody\b": "affects no other ...; has no cost",
    r"\blest\b": "so that ... does not",
    r"\b(?:has|have|had) still to (?:get|be)\b": "is still pending for",
    r"\bno sessions? fits?\b": "no matching sessions",
    r"(?<!there\s)\bis no (?:JSON|session|file|number|plugin|capture|UUID)\b": "is not a ...; is not valid ...",
    r"\bmachine code\b": "C extension",
    r"\bshort way\b": "fast path",
    r"\blong way\b": "slow path",
    r"\bbeyond doubt\b": "certain; or name the condition",
    r"\bsay whether\b": "return whether; return true if",
    r"\bfound out\b": "auto-detected",
    r"\bgiv(?:en|es|e|ing) up (?:every|all) rights?\b": "dropped all privileges",
    r"\b(?:is|was) the matter\b": "what is wrong; what happened",
    r"\bin (?:the|its|their) midst\b": "within; in the middle of",
    r"\bsaid aloud\b": "reported",
    r"\bever less often\b": "less and less often",
    r"\bkeeps? the books\b": "counts; records",
    r"\bthe brief\b|\bacceptance list\b|\bsettings_room\b": "say what it is",
}
"""Each phrase, and what to write instead.  The option ``--for-good`` has a hyphen, so it is not among them."""


def files() -> list[Path]:
    found = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/**/*.py")]
    for folder in ("src", "plugins"):
        for kind in ("py", "pyi", "pyx", "pxi", "txt"):
            found += ROOT.glob(f"{folder}/**/*.{kind}")
    return [path for path in found if "egg-info" not in str(path)]


def occurrences(pattern: str, text: str) -> list[int]:
    """Return the line numbers where ``pattern`` occurs, also where a phrase goes on in the next line."""
    spaced = re.compile(pattern.replace(" ", r"(?:[ \t]*\n[ \t]*(?:#[ \t]*|[\"'][ \t]*|>[ \t]*)?|[ ]+)"), re.IGNORECASE)
    return [text.count("\n", 0, match.start()) + 1 for match in spaced.finditer(text)]


@pytest.mark.parametrize("pattern", BANNED)
def test_no_phrase_of_a_private_dialect(pattern):
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in files()
        for line in occurrences(pattern, path.read_text(encoding="utf-8"))
    ]
    assert not found, f"write {BANNED[pattern]!r} instead in {len(found)} places:\n" + "\n".join(sorted(found))


def test_the_check_sees_what_it_looks_for():
    assert len(files()) > 200
    assert occurrences(r"\bfor good\b", "one\nIt goes for\n    # good then") == [2]
    assert occurrences(r"\bfor good\b", "sessions delete --for-good ID") == []
    each = next(pattern for pattern in BANNED if "JSON" in pattern)
    assert occurrences(each, "prints a JSON object a session") == [1]
    assert occurrences(each, "50,000 packets, a session a second") == []
