"""LIS01 and the plain variant: from frames to sessions, ENQ to EOT."""
