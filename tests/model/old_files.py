"""What the tests give a predecessor's file to hold."""


def old_session(**changes):
    return {
        "sessionId": 7, "startTime": 1_762_594_200_000, "deviceIP": "192.0.2.10", "lisIP": "192.0.2.20",
        "elements": [], "messages": [], "isComplete": True,
    } | changes  # fmt: skip


def old_element(**changes):
    return {"timestamp": 1_762_594_200_000, "direction": "device-to-pc", "type": "message"} | changes
