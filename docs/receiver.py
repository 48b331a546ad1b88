"""A webhook receiver that verifies what promptmill sends: python3 receiver.py PORT WHSEC_SECRET

Needs `pip install standardwebhooks`. Prints one line for each event; an event may come twice, `webhook-id` tells.
"""

import http.server
import sys

import standardwebhooks

webhook = standardwebhooks.Webhook(sys.argv[2])


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            event = webhook.verify(body, dict(self.headers))
        except standardwebhooks.WebhookVerificationError as error:
            self.send_response(400)
            print("refused", error, flush=True)
        else:
            self.send_response(204)
            print("verified", self.headers["webhook-id"], event["type"], event["data"]["batch_id"], flush=True)
        self.end_headers()

    def log_message(self, *_):
        pass


http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
