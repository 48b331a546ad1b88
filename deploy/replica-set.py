#!/usr/bin/env python3
"""Makes a mongod that was started with --replSet the one member of its replica set, where mongosh is not installed.

Usage: deploy/replica-set.py PORT NAME     (waits until the server takes writes; one that is a member already stays as it is)
"""
import socket
import struct
import sys
import time

WAIT = 60.0


def document(fields):
    """A document of ints, texts, documents and lists of documents as BSON."""
    body = b""
    for name, value in fields:
        name = name.encode() + b"\0"
        if isinstance(value, int):
            body += b"\x10" + name + struct.pack("<i", value)
        elif isinstance(value, str):
            text = value.encode() + b"\0"
            body += b"\x02" + name + struct.pack("<i", len(text)) + text
        elif isinstance(value, dict):
            body += b"\x03" + name + document(value.items())
        else:
            body += b"\x04" + name + document((str(at), one) for at, one in enumerate(value))
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def run(port, command):
    """Runs a command of the database admin; answers the reply as it came."""
    message = struct.pack("<I", 0) + b"\0" + document([*command, ("$db", "admin")])
    with socket.create_connection(("127.0.0.1", port), 5) as server:
        server.sendall(struct.pack("<iiii", 16 + len(message), 1, 0, 2013) + message)
        reply = b""
        while len(reply) < 4 or len(reply) < struct.unpack("<i", reply[:4])[0]:
            more = server.recv(65536)
            if not more:
                raise OSError("the server ended the connection")
            reply += more
    return reply


def main():
    port, name = int(sys.argv[1]), sys.argv[2]
    member = {"_id": 0, "host": f"127.0.0.1:{port}"}
    deadline = time.monotonic() + WAIT
    while True:
        try:
            if b"\x08isWritablePrimary\0\x01" in run(port, [("hello", 1)]):
                return
            # Of one that is a member already it is refused, and changes nothing.
            run(port, [("replSetInitiate", {"_id": name, "members": [member]})])
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"replica-set.py: the server at port {port} cannot be reached: {error}")
        if time.monotonic() > deadline:
            sys.exit(f"replica-set.py: the server at port {port} takes no writes")
        time.sleep(0.2)


main()
