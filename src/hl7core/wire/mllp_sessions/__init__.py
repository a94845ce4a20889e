"""MLLP: from blocks to sessions, one per exchange of a request and its acknowledgements."""
