"""LIS01 and plain sessions: frames in, sessions from ENQ to EOT out."""
