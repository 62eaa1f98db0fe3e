"""websockets, whose means to reconnect use the same URL again: the program does it, with the id of the last message."""

import asyncio
import json

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from common import PAUSE, URL, tell


async def subscribe():
    last = None
    while True:
        try:
            async with connect(URL + (f"&last_event_id={last}" if last else ""), proxy=None) as socket:
                async for text in socket:
                    message = json.loads(text)
                    if "id" in message:
                        last = message["id"]
                        tell(last, message.get("event", "message"), message["data"])
                    else:
                        [(name, data)] = message.items()
                        last = data.get("id", last)
                        tell(data.get("id"), "ringcast." + name, data)
        except (WebSocketException, OSError):
            pass
        await asyncio.sleep(PAUSE)


asyncio.run(subscribe())
