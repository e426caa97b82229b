"""The workload of the demo: answers each request with what it saw. It knows nothing of TLS: Envoy does that for it.

Usage: echo.py PORTFILE  (listens on a free loopback port and writes its number to PORTFILE)
"""

import http.server
import os
import sys


class Echo(http.server.BaseHTTPRequestHandler):
    """One line back: the path, and who Envoy says the caller is."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):  # noqa: N802 (the base class names it)
        caller = self.headers.get("x-forwarded-client-cert", "")
        body = f"{self.path} from {caller or 'a caller that Envoy verified'}\n".encode()
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Keeps quiet: Envoy writes the access log."""


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    # Written whole or not at all, so that who waits for it never reads half a number.
    with open(sys.argv[1] + ".new", "w", encoding="ascii") as file:
        file.write(str(server.server_address[1]))
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    server.serve_forever()


if __name__ == "__main__":
    main()
