"""An application as a team has it: sessions, orders, announcements, long tasks.

It holds no stream: it publishes (publish.py), and tells nginx who a session belongs to (`/auth`), once for each stream. Started by
./run, behind nginx.
"""

import asyncio
import logging
import os
import time
import urllib.request
import uuid
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from publish import Publisher
from starlette.middleware.sessions import SessionMiddleware

USERS = {"alice", "bob"}  # a demonstration: whoever says a name is it
HOUR = 3600

tasks: set[asyncio.Task] = set()  # asyncio itself holds them only weakly


@asynccontextmanager
async def lifespan(app: FastAPI):
    app.state.events = await Publisher.connect(os.environ["NATS_URL"])
    yield
    await app.state.events.close()


# nginx keeps `/auth` from others: `/auth/` is not to lead there.
app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)
# Signed, and out of reach of scripts and of other sites' requests. Add `https_only=True` where nginx speaks TLS.
app.add_middleware(SessionMiddleware, secret_key=os.environ["SESSION_SECRET"], same_site="lax", max_age=HOUR)


@app.middleware("http")
async def from_this_site(request: Request, proceed) -> Response:
    """Other sites' forms cannot send JSON, and their scripts are not this origin."""
    origin, kind = request.headers.get("origin"), request.headers.get("content-type", "")
    if origin is not None and origin.split("//", 1)[-1] != request.headers.get("host"):
        return Response(status_code=403)
    if request.method == "POST" and kind.split(";")[0].strip().lower() != "application/json":
        return Response(status_code=415)
    return await proceed(request)


def alive(id: str) -> Path:
    """A file for each session that lives, as a row in your database: the cookie alone is worth nothing after the logout."""
    return Path(os.environ["SESSIONS"]) / id


def session_user(request: Request) -> str | None:
    session = request.session
    lives = session.get("expires", 0) > time.time() and alive(session["id"]).exists()
    return session["user"] if lives and session["user"] in USERS else None


def signed_in(request: Request) -> str:
    user = session_user(request)
    if user is None:
        raise HTTPException(401)
    return user


User = Annotated[str, Depends(signed_in)]


class Login(BaseModel):
    user: Literal["alice", "bob"]


class Order(BaseModel):
    item: str = Field(max_length=200)


class Announcement(BaseModel):
    text: str = Field(max_length=500)


@app.get("/auth")
async def auth(request: Request, user: User) -> Response:
    """nginx asks this before it opens a stream. The stream ends when the session does."""
    return Response(headers={"X-User-Id": user, "X-User-Expires": str(request.session["expires"])})


@app.post("/login", status_code=204)
async def login(request: Request, login: Login) -> None:
    id = str(uuid.uuid4())
    alive(id).touch()
    request.session.update(user=login.user, id=id, expires=int(time.time()) + HOUR)


@app.post("/logout", status_code=204)
async def logout(request: Request) -> None:
    """First the session, then its streams: a browser comes back by itself, and is let in for as long as its session lives."""
    user = session_user(request)
    if user is not None:
        alive(request.session["id"]).unlink(missing_ok=True)
        try:
            await asyncio.to_thread(kick, user)
        except OSError:
            logging.exception("streams of %s", user)
    request.session.clear()


def kick(user: str) -> None:
    """Ends the user's streams on all sidecars.

    Without an admin listener to ask they go on until the session would have ended.
    """
    if "ADMIN_URL" not in os.environ:
        return
    token = Path(os.environ["ADMIN_TOKEN_FILE"]).read_text()
    url = f"{os.environ['ADMIN_URL']}/kick?user={quote(user, safe='')}"
    ask = urllib.request.Request(url, method="POST", headers={"Authorization": f"Bearer {token}"})
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    straight.open(ask, timeout=5).close()


@app.post("/orders", status_code=201)
async def place_order(request: Request, user: User, placed: Order) -> dict:
    order = str(uuid.uuid4())
    await request.app.state.events.send_to_user(user, "order", {"order": order, "item": placed.item}, order)
    return {"order": order}


@app.post("/announcements", status_code=204)
async def announce(request: Request, user: User, announcement: Announcement) -> None:
    data = {"from": user, "text": announcement.text}
    await request.app.state.events.broadcast("announcement", data, str(uuid.uuid4()))


@app.post("/tasks", status_code=202)
async def start_task(request: Request, user: User) -> dict:
    task = str(uuid.uuid4())
    running = asyncio.create_task(work(request.app.state.events, user, task))
    tasks.add(running)
    running.add_done_callback(tasks.discard)
    return {"task": task}


async def work(events: Publisher, user: str, task: str) -> None:
    """The work is pretended. What ends badly keeps the last percentage."""
    percent = 0

    async def report(status: str) -> None:
        await events.progress(user, task, f"{status}-{percent}", {"percent": percent, "status": status})

    try:
        while percent < 100:
            await report("running")
            await asyncio.sleep(0.05)
            percent += 20
        await report("completed")
    except Exception:
        logging.exception("task %s", task)
        await report("failed")


app.mount("/", StaticFiles(directory=Path(__file__).parent / "public", html=True))
