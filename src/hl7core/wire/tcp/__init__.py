"""TCP: packets in, the ordered bytes of each direction out.

``fragments`` joins fragmented IP packets, ``dissect`` finds the TCP segment in a packet, ``reassembly`` puts the
segments of one direction in order.
"""
