"""Replays of capture files in a running engine, beside its capture."""
