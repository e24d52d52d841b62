"""POST: answers "<length> <sha256>" of the body. /splice reads the body with splice(2).

usage: server.py ADDRESS PORT
"""
import hashlib
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Unbuffered, so that splice finds the body in the socket.
    rbufsize = 0

    def do_POST(self):
        left = int(self.headers["Content-Length"])
        if self.headers.get("Expect") == "100-continue":
            pass  # http.server has answered it
        read = self.spliced if self.path == "/splice" else self.rfile.read
        digest, length = hashlib.sha256(), 0
        while length < left:
            data = read(min(left - length, 65536))
            if not data:
                break
            digest.update(data)
            length += len(data)
        self.answer(f"{length} {digest.hexdigest()}\n".encode())

    def do_GET(self):
        self.answer(b"hello\n")

    def spliced(self, count):
        if not hasattr(self, "pipe"):
            self.pipe = os.pipe()
        moved = os.splice(self.connection.fileno(), self.pipe[1], count)
        return os.read(self.pipe[0], moved) if moved else b""

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


server = Server((sys.argv[1], int(sys.argv[2])), Handler)
print("listening", flush=True)
server.serve_forever()
