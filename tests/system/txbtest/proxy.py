"""A TCP proxy whose bytes from client to server can be held back and let go later: the packet that comes after its sender was given up."""

import queue
import socket
import threading

from txbtest import process


class Proxy:
    """Listens on 127.0.0.1:port and forwards to `target` (host, port). Ends with close(). When the bytes of `hold_at` = (bytes, n) come for the n-th time,
    the data with them and all that follows does not reach the server until release(); `held` shows it. (Held from a moment on instead, where in its work a
    client is cut off would be chance.)"""

    def __init__(self, target, hold_at):
        self.target, self.port = target, process.free_port()
        self.hold_bytes, self.hold_left = hold_at
        self.open = threading.Event()
        self.open.set()
        self.held = b""
        self.sockets = []
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

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
            threading.Thread(target=self._to_server, args=(client, server), daemon=True).start()
            threading.Thread(target=self._forward, args=(server.recv, client, 65536), daemon=True).start()

    def _to_server(self, client, server):
        """Reads on while it holds, so that what a client has sent is seen to have been sent."""
        waiting = queue.SimpleQueue()

        def passed():
            data = waiting.get()
            self.open.wait()
            return data

        threading.Thread(target=self._forward, args=(passed, server), daemon=True).start()
        data = b"-"
        while data:
            try:
                data = client.recv(65536)
            except OSError:
                data = b""
            if self.hold_bytes in data:
                self.hold_left -= 1
                if self.hold_left == 0:
                    self.open.clear()
            if not self.open.is_set():
                self.held += data
            waiting.put(data)

    @staticmethod
    def _forward(read, sink, *arguments):
        try:
            while data := read(*arguments):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return
