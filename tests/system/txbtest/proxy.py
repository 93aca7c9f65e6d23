"""A TCP proxy whose bytes from client to server can be held back and let go later: the packet that comes after its sender was given up."""

import socket
import threading

from txbtest import process


class Proxy:
    """Listens on 127.0.0.1:port and forwards to `target` (host, port). Ends with close(). With `hold_at` = (bytes, n) it holds by itself when these bytes
    come for the n-th time."""

    def __init__(self, target, hold_at=(None, 0)):
        self.target, self.port = target, process.free_port()
        self.hold_bytes, self.hold_left = hold_at
        self.open = threading.Event()
        self.open.set()
        self.held_bytes = 0
        self.sockets = []
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self):
        """From now on nothing reaches the server; held_bytes counts what waits."""
        self.open.clear()

    def release(self):
        self.open.set()

    def close(self):
        self.open.set()
        for one in [self.listener, *self.sockets]:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.target)
            self.sockets += [client, server]
            threading.Thread(target=self._forward, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, False), daemon=True).start()

    def _forward(self, source, sink, to_server):
        try:
            while data := source.recv(65536):
                if to_server and self.hold_bytes is not None and self.hold_bytes in data:
                    self.hold_left -= 1
                    if self.hold_left == 0:
                        self.hold()
                if to_server and not self.open.is_set():
                    self.held_bytes += len(data)
                    self.open.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return
