"""httpx-sse, which has no means to reconnect: the program does it, with the id of the last message."""

import httpx
from httpx_sse import SSEError, connect_sse

from common import URL, reconnect, tell

client = httpx.Client(timeout=httpx.Timeout(5, read=None), trust_env=False)


def subscribe(last):
    headers = {"Last-Event-ID": last} if last else {}
    with connect_sse(client, "GET", URL, headers=headers) as source:
        for event in source.iter_sse():
            tell(event.id, event.event, event.data)
            yield event.id


reconnect(subscribe, (httpx.TransportError, SSEError))
