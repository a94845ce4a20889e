"""The framer's law, as ``hl7core.testing`` offers it to the authors of dialects."""

from hl7core.testing.framer_contract import Step, codes, cut_lengths, frames_of, hold_the_law, joined, recut, streams

__all__ = ["Step", "codes", "cut_lengths", "frames_of", "hold_the_law", "joined", "recut", "streams"]
