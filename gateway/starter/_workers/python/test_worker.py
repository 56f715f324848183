import os
import threading
import unittest
from contextlib import closing
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer

os.environ["SLUICE_TOKEN"] = "secret"
from worker import Worker  # noqa: E402

CASES = [
    ("/total", "secret", '{"price": 2.5, "quantity": 4}', 200, '{"total": 10.0}'),
    ("/total", "secret", '{"price": 2.5, "quantity": 0}', 422, "more than 0"),
    ("/total", "secret", "nonsense", 422, "reason"),
    ("/other", "secret", "{}", 404, "no such action"),
    ("/total", "guess", '{"price": 2.5, "quantity": 4}', 401, "wrong token"),
]


class WorkerTest(unittest.TestCase):
    def test_worker(self):
        with ThreadingHTTPServer(("127.0.0.1", 0), Worker) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            for action, token, body, status, says in CASES:
                with self.subTest(action=action, body=body), closing(HTTPConnection(*server.server_address)) as connection:
                    connection.request("POST", action, body, {"Authorization": f"Bearer {token}"})
                    reply = connection.getresponse()
                    self.assertEqual(reply.status, status)
                    self.assertIn(says, reply.read().decode())
            server.shutdown()


if __name__ == "__main__":
    unittest.main()
