"""Says when croniter finds cron patterns due.

Reads one JSON array of questions from standard input and writes one JSON array of answers. Nothing of the machine's own time zones is used.
"""

import datetime
import json
import sys
import zoneinfo

import tzdata
from croniter import croniter

zoneinfo.reset_tzpath(to=())


def ticks(pattern, is_any_day, zone, start, until, most):
    """The first ticks after a moment, as many as there are until another one; and what went wrong then, if anything did."""
    at = datetime.datetime.fromtimestamp(start, zoneinfo.ZoneInfo(zone))
    is_with_seconds = len(pattern.split()) == 6
    found = []
    try:
        due = croniter(pattern, at, day_or=is_any_day, second_at_beginning=is_with_seconds)
        while len(found) < most:
            tick = due.get_next()
            if tick > until:
                break
            found.append(int(tick))
    except Exception as error:  # whatever it is, it is an answer
        return found, f"{type(error).__name__}: {error}"
    return found, None


def offsets(zone, moments):
    """What the clock of a zone is ahead of UTC at these moments."""
    zone = zoneinfo.ZoneInfo(zone)
    at = (datetime.datetime.fromtimestamp(moment, zone) for moment in moments)
    return [int(moment.utcoffset().total_seconds()) for moment in at]


def answer(question):
    match question:
        case ["ticks", *arguments]:
            return ticks(*arguments)
        case ["offsets", *arguments]:
            return offsets(*arguments)
        case ["zones"]:
            return [tzdata.IANA_VERSION, sorted(zoneinfo.available_timezones())]


json.dump([answer(question) for question in json.load(sys.stdin)], sys.stdout)
