"""MLLP: from blocks to exchanges, one session each."""
