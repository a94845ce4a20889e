"""Settings: from files and the environment to one frozen snapshot; edited in place."""
