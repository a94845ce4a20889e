"""HL7 v2 and LIS02 messages: taken apart, named and searched.  Nothing here runs while packets are decoded.

Whatever the bytes are, nothing here raises.  Time grows linearly with the size of a message.  No message content goes
into a log line or an error.  Only ``names`` imports hl7apy.
"""
