"""A receiver of webhooks: python3 receiver.py PORT

Uses only the standard library. The secret of the webhook (whsec_...) is read from WEBHOOK_SECRET.
"""
import hashlib
import hmac
import http.server
import json
import os
import sys

SECRET = os.environ["WEBHOOK_SECRET"].encode()
seen = set()  # ids of deliveries; keep them in a database, for a day or longer


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        digest = hmac.new(SECRET, body, hashlib.sha256).hexdigest()  # over the bytes, before they are parsed
        if not hmac.compare_digest(digest, self.headers.get("X-Klen-Signature", "")):
            self.send_response(401)
            self.end_headers()
            return
        delivery = self.headers["X-Klen-Delivery"]
        if delivery not in seen:  # a delivery whose answer was lost comes again
            seen.add(delivery)
            print(json.loads(body)["event_type"], flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args):
        pass


http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
