"""Settings: read from files and the environment into one frozen snapshot, and changed in place."""
