"""Receives webhooks and checks them by the official library: python3 receiver.py PORT WHSEC_SECRET

Answers 500 to the first try of each event, so that each is sent twice. Prints a JSON line for each try.
"""

import base64
import http.server
import json
import sys

import standardwebhooks

webhook = standardwebhooks.Webhook(sys.argv[2])
seen = set()


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        event_id, timestamp = self.headers["webhook-id"], self.headers["webhook-timestamp"]
        try:
            event_type = webhook.verify(body, dict(self.headers))["type"]
        except Exception as error:
            print(error, file=sys.stderr)
            event_type = None
        body = base64.b64encode(body).decode()
        line = {"id": event_id, "type": event_type, "by_key": None, "timestamp": timestamp, "body": body}
        print(json.dumps(line), flush=True)
        self.send_response(204 if event_id in seen else 500)
        seen.add(event_id)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
