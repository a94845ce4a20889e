"""Framing: the bytes of one direction in, frames out.

``framer`` states the rules that every framer keeps; ``buffer`` is what the built-in ones, ``mllp``, ``lis01`` and
``plain``, have in common.
"""
