"""Python `httpx-sse`: reads URL as USER until an event named END, and prints every event as a JSON line.

Usage: python httpx_sse_reader.py URL USER END
"""

import json
import sys

import httpx
from httpx_sse import connect_sse

url, user, end = sys.argv[1:4]
with httpx.Client(timeout=30, trust_env=False) as client:
    with connect_sse(client, "GET", url, headers={"X-Forwarded-User": user}) as source:
        for event in source.iter_sse():
            print(json.dumps({"event": event.event, "data": event.data, "id": event.id}), flush=True)
            if event.event == end:
                sys.exit(0)
sys.exit(2)
