"""What a replay of capture files reports."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ReplayReport"]


class ReplayReport(NamedTuple):
    """How far a replay has come, and once it has ended, what became of it.

    ``state`` is ``reading``, ``waiting`` (for the store), ``paused`` (with the engine), ``saving`` (all is decoded),
    ``done`` or ``stopped``; ``detail`` says in one sentence what it waits for.  ``file`` is the one being read,
    ``position`` how many of all files' ``size`` bytes have been read, ``at`` the time of the last packet (unix
    seconds).

    Of the ``sessions`` that ended, ``known`` were stored or in memory already, ``saved`` were saved, ``waiting`` wait
    in memory to be saved, ``lost`` were dropped because too many waited, and ``unsaved`` were told to plugins only,
    because nothing is saved.  ``dropped`` counts conversations that were still open, or had no room
    yet, when the replay was stopped: they are not kept, so that another replay gets them whole.

    ``encrypted`` is a sentence about connections that could not be read.  ``problems`` has (file, sentence) for
    whatever could not be read.
    """

    state: str = "reading"
    detail: str = ""
    file: str = ""
    position: int = 0
    size: int = 0
    at: float = 0
    packets: int = 0
    connections: int = 0
    sessions: int = 0
    saved: int = 0
    known: int = 0
    waiting: int = 0
    lost: int = 0
    unsaved: int = 0
    dropped: int = 0
    encrypted: str = ""
    problems: tuple[tuple[str, str], ...] = ()
