"""sseclient-py over requests, which have no means to reconnect: the program does it, with the id of the last message."""

import requests
from sseclient import SSEClient

from common import URL, reconnect, tell

session = requests.Session()
session.trust_env = False


def subscribe(last):
    headers = {"Accept": "text/event-stream"}
    if last:
        headers["Last-Event-ID"] = last
    response = session.get(URL, headers=headers, stream=True)
    response.raise_for_status()
    for event in SSEClient(response).events():
        tell(event.id, event.event, event.data)
        yield event.id


reconnect(subscribe, requests.RequestException)
