#!/usr/bin/env python3
"""Passes connections on, and writes down what clients send.

    spy.py LISTEN_PORT TARGET_HOST:PORT FILE
"""

import socket
import sys
import threading

listen, target, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
host, port = target.rsplit(":", 1)


def pump(source, sink, record):
    try:
        while data := source.recv(65536):
            if record is not None:
                record.write(data)
                record.flush()
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


with socket.create_server(("127.0.0.1", listen)) as server, open(path, "ab") as record:
    while True:
        client, _ = server.accept()
        upstream = socket.create_connection((host, int(port)))
        threading.Thread(target=pump, args=(client, upstream, record), daemon=True).start()
        threading.Thread(target=pump, args=(upstream, client, None), daemon=True).start()
