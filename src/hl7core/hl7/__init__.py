"""Reading messages: what they hold and what its parts are called.  Off the stream, for who looks and for who searches.

The law: nothing here raises over what it reads, whatever the bytes are; costs grow with a message's size and no faster;
and no message content leaves through a log line or an error.  Only ``names`` imports hl7apy.
"""
