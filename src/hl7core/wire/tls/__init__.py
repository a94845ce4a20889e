"""TLS: told from other traffic by its records, and read where a key log gives the keys.  Sans-IO like all of ``wire/``.

Its law: what is encrypted is named and counted, never guessed at.  A key comes from the user alone, is used for the
connection that it belongs to, and is shown to nobody.
"""
