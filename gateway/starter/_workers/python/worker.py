"""A worker of Sluice: an HTTP server whose paths are the actions that topologies name. AGENTS.md has the contract."""
import hmac
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def total(line):
    if line["quantity"] <= 0:
        raise ValueError("quantity must be more than 0")
    return {"total": line["price"] * line["quantity"]}


class Worker(BaseHTTPRequestHandler):
    token, actions = os.environ["SLUICE_TOKEN"], {"/total": total}  # from the body of a message to the next one's
    protocol_version = "HTTP/1.1"  # keeps connections open between calls

    def do_POST(self):
        status, reply = self.work(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def work(self, body):
        if not hmac.compare_digest(self.headers.get("Authorization", "").encode(), f"Bearer {self.token}".encode()):
            return 401, {"reason": "wrong token"}
        if self.path not in self.actions:
            return 404, {"reason": "no such action"}
        try:
            return 200, self.actions[self.path](json.loads(body))
        except (KeyError, TypeError, ValueError) as mistake:  # trying again would not help
            return 422, {"reason": str(mistake)}


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", 9000))), Worker).serve_forever()
