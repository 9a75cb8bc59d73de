"""PyPI's clients of event streams, one of them each run.

It prints a JSON line for every event that the client hands over, and one, {"ended": why}, when the client has given up. The little
loop at the end then starts it anew from the last id, as an application has to that uses it. What the clients do of themselves, and
where they leave the standard, is told in ../deviations.rs.

Usage: python client.py CLIENT URL
"""

import asyncio
import importlib
import json
import sys
import time

last = ""


def line(**fields):
    print(json.dumps(fields), flush=True)


def event(name, id, data):
    """As it was handed over: a missing name, id or piece of data is told as null."""
    global last
    last = id or last
    line(event=name, id=id, data=data)


def headers():
    return {"Last-Event-ID": last} if last else {}


def httpx_sse(url):
    import httpx
    from httpx_sse import connect_sse

    with httpx.Client(timeout=60, trust_env=False) as client:
        with connect_sse(client, "GET", url, headers=headers()) as source:
            for e in source.iter_sse():
                event(e.event, e.id, e.data)
    return "iterated to its end"


def requests_sse(url):
    from requests_sse import EventSource

    with EventSource(url, timeout=60, latest_event_id=last or None) as source:
        for e in source:
            event(e.type, e.last_event_id, e.data)
    return "iterated to its end"


def sseclient_py(url):
    import requests
    from sseclient import SSEClient

    head = {"Accept": "text/event-stream", **headers()}
    with requests.get(url, headers=head, stream=True, timeout=60) as response:
        response.raise_for_status()
        for e in SSEClient(response).events():
            event(e.event, e.id, e.data)
    return "iterated to its end"


def launchdarkly_eventsource(url):
    from ld_eventsource import SSEClient
    from ld_eventsource.config import ErrorStrategy, RetryDelayStrategy

    # Its own delays double, and are only forgotten after a minute of peace.
    with SSEClient(
        url,
        error_strategy=ErrorStrategy.always_continue(),
        retry_delay_strategy=RetryDelayStrategy.default(backoff_multiplier=1),
        last_event_id=last or None,
    ) as source:
        for e in source.events:
            event(e.event, e.last_event_id, e.data)
    return "iterated to its end"


def aiohttp(module):
    """Of aiohttp-sse-client and aiohttp-sse-client2, which took the other's code over."""

    def read(url):
        async def reading():
            source = importlib.import_module(f"{module}.client").EventSource
            async with source(url, headers=headers()) as events:
                async for e in events:
                    event(e.type, e.last_event_id, e.data)
            return "iterated to its end"

        return asyncio.run(reading())

    return read


CLIENTS = {
    "httpx-sse": httpx_sse,
    "requests-sse": requests_sse,
    "sseclient-py": sseclient_py,
    "launchdarkly-eventsource": launchdarkly_eventsource,
    "aiohttp-sse-client": aiohttp("aiohttp_sse_client"),
    "aiohttp-sse-client2": aiohttp("aiohttp_sse_client2"),
}

client, url = sys.argv[1:3]
while True:
    try:
        why = CLIENTS[client](url)
    except Exception as error:  # whatever a client raises is its way to give up, and is told
        why = f"{type(error).__name__}: {error}"
    line(ended=why)
    time.sleep(0.5)
