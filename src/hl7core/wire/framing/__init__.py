"""Framing: bytes of one direction in, frames out."""
