"""The wire: bytes in, values out.  No socket, no file, no clock, no thread; imports ``model`` alone.  The hot path."""
