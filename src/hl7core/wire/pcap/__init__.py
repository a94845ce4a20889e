"""Capture files, read and written: pcap and pcapng."""
