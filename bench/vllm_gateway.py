"""What the endpoint itself costs in front of vLLM: seconds of CPU for each answer, whole and streamed.

    python bench/vllm_gateway.py [--requests 256] [--rounds 3] [--tokens 24] [--clients 32]

In place of vLLM stands a server that computes nothing: it answers at once, in vLLM's shapes, an event for each token where a stream is
wanted. So all that is measured is the endpoint: HTTP on both sides, keys, prompt, queue, pieces, traffic log with its scrubber. CPU seconds
are those of the endpoint's process, all threads; neither the clients' nor the other server's. What vLLM needs for an answer is not in it:
compare with the answers a second that yours gives. The last line is JSON.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # for the tests' tiny model

from serve_speed import KEYS, READY_SECONDS, USE_CASE, Place, free_port, settle

WORDS = ["my", "card", "was", "charged", "twice", "for", "one", "coffee"]


def upstream(port: int) -> None:
    """vLLM's routes with answers that cost nothing."""
    import uvicorn
    from fastapi import FastAPI, Request
    from starlette.responses import JSONResponse, Response, StreamingResponse

    app = FastAPI()

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "base", "root": "/models/base", "parent": None, "max_model_len": 1024}]}

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = await request.json()
        tokens = [f" {WORDS[place % len(WORDS)]}" for place in range(body["max_tokens"])]
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(tokens)}
        if not body.get("stream"):
            return JSONResponse({"choices": [choice(tokens, last=True)], "usage": usage})

        async def events() -> AsyncIterator[str]:
            for place, token in enumerate(tokens, start=1):
                yield f"data: {json.dumps({'choices': [choice([token], last=place == len(tokens))]})}\n\n"
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def choice(tokens: list[str], *, last: bool) -> dict[str, Any]:
    told = {"tokens": tokens, "token_logprobs": [-0.5] * len(tokens), "top_logprobs": [{token: -0.5} for token in tokens]}
    return {"index": 0, "text": "".join(tokens), "logprobs": told, "finish_reason": "length" if last else None}


def endpoint(folder: Path, url: str, *, tokens: int) -> Place:
    """This project's server in front of that one, with the tokenizer of a tiny model."""
    from fine_tune_pipeline.programs.requests import PromptFormat, ServeRequest
    from fine_tune_pipeline.programs.vllm.requests import VllmUpstream
    from fine_tune_pipeline_tests.tiny import tiny_model

    port = free_port()
    behind = VllmUpstream(urls=(url,), base="base", adapters_at=str(folder), seen_as=str(folder), max_lora_rank=16)
    request = ServeRequest(
        output=str(folder), state=str(folder), use_case=USE_CASE, model=str(tiny_model(folder / "model")), format=PromptFormat(),
        max_new_tokens=tokens, port=port, threads=1, vllm=behind,
    )  # fmt: skip
    request.write(folder / "request.json")
    command = [sys.executable, "-m", "fine_tune_pipeline.programs.serve", "--request", str(folder / "request.json")]
    return Place(command, url=f"http://127.0.0.1:{port}", log=folder / "server.log")


def asked(place: Place, *, requests: int, clients: int, streamed: bool) -> float:
    """CPU seconds of the endpoint for each of so many answers.

    Raises:
        AssertionError: an answer is not whole.
    """
    import httpx

    body = {"model": f"{USE_CASE}-base", "messages": [{"role": "user", "content": "I lost my card"}], "stream": streamed}
    waiting = [body] * requests

    async def client(http: httpx.AsyncClient) -> None:
        while waiting:
            answer = (await http.post("/v1/chat/completions", json=waiting.pop())).raise_for_status()
            assert '"finish_reason":"length"' in answer.text, answer.text

    async def run() -> None:
        headers = {"Authorization": f"Bearer {KEYS['FINE_TUNE_PIPELINE_API_KEY']}"}
        async with httpx.AsyncClient(base_url=place.url, headers=headers, timeout=READY_SECONDS) as http:
            await asyncio.gather(*(client(http) for _ in range(clients)))

    before = place.cpu_seconds()
    asyncio.run(run())
    # What the log has to do for these answers is theirs.
    settle(place, model=f"{USE_CASE}-base")
    return (place.cpu_seconds() - before) / requests


def measured(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    port = free_port()
    command = [sys.executable, __file__, "--upstream", str(port)]
    behind = Place(command, url=f"http://127.0.0.1:{port}", log=folder / "upstream.log")
    behind.wait("/v1/models")
    (folder / "state").mkdir()
    ours = endpoint(folder / "state", behind.url, tokens=options.tokens)
    try:
        ours.wait("/health")
        asked(ours, requests=options.clients, clients=options.clients, streamed=True)
        found: dict[str, list[float]] = {"whole": [], "streamed": []}
        for number in range(options.rounds):
            for how in list(found)[:: -1 if number % 2 else 1]:
                seconds = asked(ours, requests=options.requests, clients=options.clients, streamed=how == "streamed")
                found[how].append(seconds)
                print(f"{number + 1}: {how:8} {1000 * seconds:.2f} ms of CPU for an answer of {options.tokens} tokens")
        return {how: round(1000 * statistics.median(seconds), 2) for how, seconds in found.items()}
    finally:
        ours.stop()
        behind.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=256, help="in each round, whole and streamed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--upstream", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.upstream:
        upstream(options.upstream)
        return
    with tempfile.TemporaryDirectory() as name:
        cpu_ms = measured(options, Path(name))
    print(json.dumps({"tokens": options.tokens, "clients": options.clients, "cpu_ms_per_answer": cpu_ms}))


if __name__ == "__main__":
    main()
