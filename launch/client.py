"""A client of one running ComfyUI: queues prompts, follows them by websocket, collects what they made."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from .errors import LaunchError
from .server import Server

Prompt = Mapping[str, Mapping[str, Any]]
Progress = Callable[[str, int, int], None]  # node id, steps done, steps in all
PATIENCE = 2.0  # seconds without a message after which the server's life is checked


@dataclass
class Result:
    """What one prompt did."""

    outputs: dict[str, Any]  # by node id, as in /history
    seconds: dict[str, float] = field(default_factory=dict)  # by node id; nodes that ComfyUI had kept are absent


def run_prompt(server: Server, prompt: Prompt, progress: Progress = lambda *_: None) -> Result:
    """Queue a prompt and wait for its end."""
    try:
        return asyncio.run(_run(server, prompt, progress))
    except (aiohttp.ClientError, ConnectionError) as error:
        time.sleep(0.5)  # a dying process needs a moment to be seen as dead
        server.check_alive()
        raise LaunchError(f"The connection to ComfyUI broke: {error}. Call again", server.log) from error


async def _run(server: Server, prompt: Prompt, progress: Progress) -> Result:
    """One websocket, one prompt."""
    client = uuid.uuid4().hex
    async with (
        aiohttp.ClientSession(server.address) as session,
        session.ws_connect("/ws", params={"clientId": client}, max_msg_size=0) as socket,
    ):
        number = await _queue(server, session, prompt, client)
        seconds = await _follow(server, socket, number, prompt, progress)
        async with session.get(f"/history/{number}") as answer:
            history = await answer.json()
    return Result(history[number]["outputs"], seconds)


async def _queue(server: Server, session: aiohttp.ClientSession, prompt: Prompt, client: str) -> str:
    """The number under which ComfyUI has queued the prompt."""
    async with session.post("/prompt", json={"prompt": prompt, "client_id": client}) as answer:
        body = await answer.json()
        if answer.status != 200:
            raise LaunchError(f"ComfyUI refused the workflow: {_refusal(body, prompt)}", server.log)
        return str(body["prompt_id"])


def _refusal(body: Mapping[str, Any], prompt: Prompt) -> str:
    """The reasons that /prompt gives, each with its node."""
    reasons = [
        f"node {node} ({prompt.get(node, {}).get('class_type', '?')}): {error['message']} {error.get('details', '')}".strip()
        for node, found in (body.get("node_errors") or {}).items()
        for error in found["errors"]
    ]
    return "; ".join(reasons) or str(body.get("error", {}).get("message", body))


async def _follow(
    server: Server, socket: aiohttp.ClientWebSocketResponse, number: str, prompt: Prompt, progress: Progress
) -> dict[str, float]:
    """Seconds by node until the prompt ends."""
    seconds: dict[str, float] = {}
    node, begin = "", time.perf_counter()
    while True:
        kind, data = await _receive(server, socket)
        if data.get("prompt_id", number) != number:
            continue
        if kind == "progress":
            progress(str(data["node"]), int(data["value"]), int(data["max"]))
        elif kind in ("executing", "execution_success"):
            now = time.perf_counter()
            if node:
                seconds[node] = seconds.get(node, 0.0) + now - begin
            node, begin = str(data.get("node") or ""), now
            if kind == "executing" and not node:  # comes when the history is written, a little after the success
                return seconds
        elif kind in ("execution_error", "execution_interrupted"):
            raise LaunchError(_stopped(data, prompt), server.log)


async def _receive(server: Server, socket: aiohttp.ClientWebSocketResponse) -> tuple[str, Mapping[str, Any]]:
    """The next message in text; the server's life is checked while none comes."""
    while True:
        with contextlib.suppress(asyncio.TimeoutError):
            message = await socket.receive(PATIENCE)
            if message.type is aiohttp.WSMsgType.TEXT:
                body = message.json()
                return str(body["type"]), body["data"]
            if message.type is not aiohttp.WSMsgType.BINARY:  # closed, or broken
                raise ConnectionError("ComfyUI closed it")
        server.check_alive()


def _stopped(data: Mapping[str, Any], prompt: Prompt) -> str:
    """Why a prompt did not end."""
    node = f"node {data.get('node_id')} ({data.get('node_type') or prompt.get(str(data.get('node_id')), {}).get('class_type')})"
    if "exception_message" not in data:
        return f"The run was interrupted at {node}"
    return f"The run failed at {node}: {data.get('exception_type', 'error')}: {data['exception_message']}"
