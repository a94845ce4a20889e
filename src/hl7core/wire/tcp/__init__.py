"""From packets to ordered bytes: IP fragments, TCP segments, reassembly."""
