"""Counts responses by route and status, whoever made them."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fine_tune_pipeline.programs.serving.metrics import Metrics

ROUTES = frozenset(
    {
        "/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/feedback", "/health", "/ready", "/metrics", "/admin/sync",
    }
)  # fmt: skip
"""Anything else counts as `other`: what strangers ask for must not fill the memory."""


class Counting:
    """ASGI middleware around all others."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in ROUTES else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.response(route, message["status"])
            await send(message)

        await self._app(scope, receive, counted)
