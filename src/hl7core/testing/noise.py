"""The first bytes of other protocols, of both sides, which must never become a session.

Written from their public specifications; each sample is short and typical.
"""

from __future__ import annotations

from typing import Final

__all__ = ["NOISE"]

NOISE: Final[dict[str, tuple[bytes, bytes]]] = {
    "HTTP": (b"GET /index.html HTTP/1.1\r\nHost: lis\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    "HTTP upload": (
        b"POST /05 HTTP/1.1\r\nContent-Length: 9\r\n\r\n\x05\x02\x03\x04\x06\x15\x0b\x1c\r",
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0", b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0\x40\0"),
    "TLS": (b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03" + bytes(range(40)), b"\x16\x03\x03\x00\x04\x0e\0\0\0"),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", b"SSH-2.0-dropbear\r\n\0\0\x01\x14\x0a\x14" + bytes(range(30))),
    "SMB1": (b"\0\0\0\x54\xffSMB\x72\0\0\0\0\x18\x01\x28\0\0", b"\0\0\0\x55\xffSMB\x72\0\0\0\0\x98\x01\x28"),
    "SMB2": (b"\0\0\0\x66\xfeSMB\x40\0\x01\0\0\0\0\0\x05\0\x02\0", b"\0\0\0\xf8\xfeSMB\x40\0\x01\0\0\0\0\0\x05"),
    "PostgreSQL": (b"\0\0\0\x08\x04\xd2\x16\x2f", b"N"),
    "PostgreSQL start": (b"\0\0\0\x28\0\x03\0\0user\0lis\0database\0lab\0\0", b"R\0\0\0\x0c\0\0\0\x05\x06\x04\x15\x02"),
    "MySQL": (b"\x20\0\0\x01\x05\xa6\x0f\0\0\0\0\x01", b"\x4a\0\0\0\x0a8.0.36\0\x05\x02\0\0"),
    "SQL Server": (b"\x12\x01\0\x2f\0\0\x01\0\0\0\x1a\0\x06\x01\0\x20", b"\x04\x01\0\x2b\0\0\x01\0\0\0\x1a\0\x06"),
    "Oracle": (b"\0\x3a\0\0\x01\0\0\0\x01\x36\x01\x2c\0\0", b"\0\x20\0\0\x02\0\0\0\x01\x36"),
    "MongoDB": (b"\x3f\0\0\0\x05\0\0\0\0\0\0\0\xd4\x07\0\0", b"\x24\0\0\0\x06\0\0\0\x05\0\0\0\x01\0\0\0"),
    "Redis": (b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"),
    "LDAP": (b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\0\x80\0", b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\0\x04\0"),
    "RDP": (b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x0b\0\0\0", b"\x03\0\0\x13\x0e\xd0\0\0\x12\x34\0\x02"),
    "VNC": (b"RFB 003.008\n\x02", b"RFB 003.008\n\x02\x02\x10"),
    "SOCKS5": (b"\x05\x01\x00\x05\x01\x00\x03\x03lis\x00\x50", b"\x05\x00\x05\x00\x00\x01"),
    "SOCKS5 with two methods": (b"\x05\x02\x00\x02", b"\x05\x02"),
    "DICOM": (b"\x01\0\0\0\0\x4a\0\x01\0\0LIS", b"\x02\0\0\0\0\x4a\0\x01\0\0LIS"),
    "Modbus": (b"\0\x01\0\0\0\x06\x05\x03\0\0\0\x02", b"\0\x01\0\0\0\x07\x05\x03\x04\0\x06\0\x15"),
    "DNS": (b"\0\x1d\x05\x06\x01\0\0\x01\0\0\0\0\0\0\x03lis\0\0\x01\0\x01", b"\0\x2d\x05\x06\x81\x80\0\x01"),
    "telnet": (b"\xff\xfd\x01\xff\xfd\x1f\xff\xfb\x05\xff\xfb\x06", b"\xff\xfb\x01\xff\xfd\x05\xff\xfe\x06login: "),
    "FTP": (b"USER lis\r\n", b"220 ready\r\n"),
    "SMTP": (b"EHLO lis\r\n", b"220 lab ESMTP\r\n"),
    "PJL": (
        b"\x1b%-12345X@PJL INFO STATUS\r\n@PJL ENTER LANGUAGE=PCL\r\n\x1bE\x05\x02\x06",
        b"@PJL INFO STATUS\r\n\x0c",
    ),
    "PostScript": (b"%!PS-Adobe-3.0\n\x04", b"\x04"),
    "ZPL": (b"^XA^FO50,50^A0N,50^FDspecimen^FS^XZ\r\n", b""),
    "ZPL status": (b"~HS", b"\x02014,0,0,1245,000,0,0,0,000,0,0,0\x03\r\n\x02001,0,0,0,1,2,6,0,00000000,1,000\x03\r\n"),
    "EPL": (b'\r\nN\r\nA50,0,0,1,1,1,N,"specimen"\r\nP1\r\n', b""),
    "ESC/POS": (b"\x1b@\x1b\x05\x01specimen\n\x1dV\x00\x05", b"\x12"),
    "ESC/POS asks for the state": (b"\x05", b"\x12"),
    "ESC/POS in real time": (b"\x10\x04\x01\x10\x05\x02", b"\x16"),
    "LPD": (b"\x02lp\n", b"\0"),
    "LPD removes": (b"\x05lp root 15\n", b"\0"),
    "LPD asks": (b"\x04lp\n", b"lp is ready\nno entries\n"),
    "IPP": (b"POST /printers/1 HTTP/1.1\r\nContent-Type: application/ipp\r\n\r\n\x02\x00\x00\x0b\0\0\0\x01\x01", b""),
    "SIP": (b"REGISTER sip:lab SIP/2.0\r\n", b"SIP/2.0 200 OK\r\n"),
    "MQTT": (b"\x10\x0f\0\x04MQTT\x04\x02\0\x3c\0\x03lis", b"\x20\x02\0\0"),
    "AMQP": (b"AMQP\0\0\x09\x01", b"\x01\0\0\0\0\x01\xf0\0\x0a\0\x0a\0\x09"),
    "Kerberos": (b"\0\0\0\xc9\x6a\x81\xc6\x30\x81\xc3\xa1\x03\x02\x01\x05", b"\0\0\0\xa0\x7e\x81\x9d"),
    "NetBIOS": (b"\x81\0\0\x44\x20CKFDENECFDEFFCFGEFFCCACACACACACA\0", b"\x82\0\0\0"),
    "barcode reader": (b"0123456789012\r\n", b"\x06"),
    "scale": (b"\x05", b"S S      12.5 g\r\n"),
}
"""By name: the first bytes of the side that opened the connection, and of the other side."""
