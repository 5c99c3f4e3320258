"""upstream.py REGISTRY: passes requests on to a registry, and says with each answer what is left of a rate limit."""

import http.client
import http.server
import sys

REGISTRY = sys.argv[1]
PULLS_MAX = 100


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pulls = 0

    def do_GET(self):
        connection = http.client.HTTPConnection(REGISTRY, timeout=10)
        passed = {name: self.headers[name] for name in ("Accept", "Range", "If-Range") if name in self.headers}
        connection.request(self.command, self.path, headers=passed)
        answer = connection.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("date", "content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        # The length of what a HEAD asks about is the registry's word; of all else it is known here.
        length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        if "/manifests/" in self.path:
            Handler.pulls += self.command == "GET"
            self.send_header("RateLimit-Limit", f"{PULLS_MAX};w=21600")
            self.send_header("RateLimit-Remaining", f"{max(PULLS_MAX - Handler.pulls, 0)};w=21600")
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
