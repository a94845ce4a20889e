"""A result and its acknowledgement, as MLLP blocks."""

ORU = b"MSH|^~\\&|AN|LAB|LIS|LAB|20260101||ORU^R01|M1|P|2.5\r"
ACK = b"MSH|^~\\&|LIS|LAB|AN|LAB|20260101||ACK^R01|A1|P|2.5\rMSA|AA|M1\r"


def block(text: bytes) -> bytes:
    return b"\x0b" + text + b"\x1c\r"


def faults(sessions) -> set[str]:
    return {fault.code for s in sessions for e in s.elements for fault in e.faults}
