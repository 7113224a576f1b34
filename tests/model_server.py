"""A server with OpenAI's chat completions, on a real socket, that answers as a test says and keeps what it was sent."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from optimizer.hooks import PROJECT, Plugins

#: A key that must never be seen anywhere but in the Authorization header.
KEY = "sk-never-shown-1234567890"


@dataclass(frozen=True)
class Request:
    """One request as it came over the wire; the names of headers are in lower case."""

    path: str
    headers: Mapping[str, str]
    raw: str

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.raw)

    @property
    def prompt(self) -> str:
        """All messages, one after the other."""
        return "\n".join(message["content"] for message in self.body["messages"])

    @property
    def data(self) -> dict[str, Any]:
        """What the last message says of the query, or of what was rejected."""
        (text,) = re.findall(r"<data-(?:\w+)>\n(.*)\n</data-\w+>", self.body["messages"][-1]["content"], re.DOTALL)
        return json.loads(text)


@dataclass(frozen=True)
class Response:
    """One answer.

    Parameters:
        status, body, headers: of HTTP.
        hold: nothing is sent before this is set (or a minute has passed), but with `drip` one byte now and then.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hold: threading.Event | None = None
    drip: bool = False


def plugins_with_model() -> Plugins:
    """The installed plugins, the model's among them."""
    entries = {entry.name: entry for entry in entry_points(group=PROJECT)}
    return Plugins((entries | {"llm": EntryPoint("llm", "plugins.llm_advisor", PROJECT)}).values())


Script = Callable[[Request], Response]


def completion(content: Any, *, finish: str = "stop", refusal: str | None = None, usage: Any = "given") -> Response:
    """A chat completion as OpenAI sends it."""
    message = {"role": "assistant", "content": content, "refusal": refusal}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "stub",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120} if usage == "given" else usage,
    }
    return Response(body=json.dumps(body).encode())


def proposing(
    rewrites: Sequence[str] = (), indexes: Sequence[str] = (), *, title: str = "A title", why: str = "A reason."
) -> Response:
    """A completion with the object that is asked for."""
    answer = {
        "rewrites": [{"sql": sql, "title": title, "why": why} for sql in rewrites],
        "indexes": [{"ddl": ddl, "title": title, "why": why} for ddl in indexes],
    }
    return completion(json.dumps(answer))


def refusing(status: int, *, headers: Mapping[str, str] | None = None, param: str | None = None) -> Response:
    """An error as OpenAI sends it, which repeats the key as some servers do."""
    error = {"message": f"no good, your key was {KEY}", "type": "error", "param": param, "code": None}
    return Response(status, json.dumps({"error": error}).encode(), headers or {})


@dataclass
class ModelServer:
    """The running server.

    Parameters:
        url: its base URL, as clients want it.
        script: makes the next answers, in order; the last one repeats.
        requests: what came.
    """

    url: str
    script: list[Script | Response] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def answers(self, *script: Script | Response) -> None:
        """Say what to answer from now on, and forget what came."""
        self.script = list(script)
        self.requests.clear()

    def next(self, request: Request) -> Response:
        self.requests.append(request)
        entry = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return entry if isinstance(entry, Response) else entry(request)

    @property
    def environment(self) -> dict[str, str]:
        """Settings that point planproof here."""
        return {
            "PLANPROOF_LLM_MODEL": "stub-model",
            "PLANPROOF_LLM_BASE_URL": self.url,
            "PLANPROOF_LLM_API_KEY": KEY,
            "PLANPROOF_LLM_RETRIES": "0",
        }


@contextmanager
def model_server() -> Iterator[ModelServer]:
    """Run the server in threads of this process."""
    state = ModelServer("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            response = state.next(Request(self.path, {k.lower(): v for k, v in self.headers.items()}, raw))
            try:
                if response.hold is not None and not response.drip:
                    response.hold.wait(60)
                self.send_response(response.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(response.body)))
                for name, value in response.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                sent = 0
                while response.drip and response.hold is not None and not response.hold.wait(0.02):
                    self.wfile.write(response.body[sent : sent + 1])
                    sent += 1
                self.wfile.write(response.body[sent:])
            except OSError:
                self.close_connection = True  # the client had enough

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
