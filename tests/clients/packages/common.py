"""The parts that the clients in Python have in common."""

import json
import sys
import time

URL = sys.argv[1]
# The seconds between the end of a connection and the next one.
PAUSE = 0.2


def tell(id, name, data):
    """Prints a message, for the test that has started this program."""
    print(json.dumps({"id": id, "name": name, "data": data}), flush=True)


def reconnect(subscribe, errors):
    """Calls subscribe(last) again and again, with the id of the last message. subscribe yields an id per message."""
    last = None
    while True:
        try:
            for id in subscribe(last):
                last = id or last
        except errors:
            pass
        time.sleep(PAUSE)
