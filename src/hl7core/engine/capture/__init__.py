"""Capturing: packet sources, and the intake through which their packets come in."""
