"""Capture files: pcap and pcapng, read and written as bytes.

``reader`` reads either format (pcapng with the help of ``pcapng``), ``writer`` writes both, ``synthetic_tcp`` makes the
packets of a TCP conversation, and ``rebuild`` makes packets from sessions.
"""
