"""TLS: recognized by its records, and decrypted if a key log holds the keys.  Sans-IO like all of ``wire/``.

Encrypted connections are named and counted, never guessed at.  Keys come only from the user, are used only for the
connection that they belong to, and are never shown.

``records`` recognises and cuts records, ``hello`` reads the handshake, ``keylog`` the keys, ``ciphers`` opens records,
and ``unwrap`` puts it together: records in, the sessions inside out.
"""
