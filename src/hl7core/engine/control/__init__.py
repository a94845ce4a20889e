"""The control socket: how other processes ask the running engine."""
