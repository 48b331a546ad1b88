"""What schemathesis has to be told of this service before it sends requests."""

import itertools
import re

import schemathesis

# Bodies that are lines of JSON are sent as the texts they are.
schemathesis.serializer.alias(["application/x-ndjson", "application/jsonl"], "text/plain")

KEYS = itertools.count()
TAKEN_KEY = re.compile(r"""(?!""$)("[ -~]{1,255}"|[ -~]{1,255})""")


@schemathesis.hook
def before_call(context, case, kwargs):
    # A request that is wrong on purpose stays as it is: an edit of any kind makes it pass for a right one.
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    # One key stands for one request, and the same few are drawn again and again: nearly every request would be refused for that alone.
    key = (case.headers or {}).get("Idempotency-Key")
    if key is not None and TAKEN_KEY.fullmatch(str(key).strip()):
        case.headers["Idempotency-Key"] = f"key {next(KEYS)}"
    # Waiting a minute for what does not come shows no more than waiting a second.
    wait = (case.query or {}).get("wait")
    if isinstance(wait, int) and not isinstance(wait, bool) and 1 < wait <= 60:
        case.query["wait"] = 1
