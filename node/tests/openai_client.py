"""Drives `kwaainet serve` with the official openai client. Called by ci/openai-client with the binary's path.

Every check is a function; the first that fails ends the run with its traceback and exit code 1.
"""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import openai

MESSAGES = [{"role": "user", "content": "Tell me a story about Lily."}]
# Without its end tokens the small model goes on to the end of its context.
ENDLESS = {"0": -100, "1": -100, "2": -100}


class Server:
    """A running server on a free port."""

    def __init__(self, binary, *arguments, **environment):
        command = [binary, "serve", "--port", "0", *arguments]
        environment = {**os.environ, **environment}
        environment.pop("KWAAINET_API_KEY", None)
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        for line in self.process.stderr:
            if "Listening at " in line:
                self.base = line.split("Listening at ")[1].strip().rstrip(".")
                break
        else:
            raise SystemExit("the server ended at once")
        threading.Thread(target=lambda: list(self.process.stderr), daemon=True).start()
        wait_until("the model loaded", lambda: self.health().get("status") == "ok")

    def health(self):
        try:
            with urllib.request.urlopen(self.base + "/health") as answer:
                return json.load(answer)
        except urllib.error.HTTPError:
            return {}

    def client(self, key="none"):
        return openai.OpenAI(base_url=self.base + "/v1", api_key=key, max_retries=0, timeout=60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=20)


def wait_until(what, condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not happen within {seconds} s")
        time.sleep(0.01)


def refused(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected")


def ask(client, **more):
    return client.chat.completions.create(**{"model": "tales4m", "messages": MESSAGES, "temperature": 0,
                                             "max_tokens": 24, **more})


def a_chat_is_answered(client):
    answer = ask(client)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content.startswith("Once upon a time, there was a little girl named Lily."), choice
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 24
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 24
    assert ask(client).usage.prompt_tokens_details.cached_tokens > 0
    parts = [{"role": "user", "content": [{"type": "text", "text": MESSAGES[0]["content"]}]}]
    assert ask(client, messages=parts).choices[0].message.content == choice.message.content
    assert ask(client, max_tokens=openai.NOT_GIVEN, max_completion_tokens=3).usage.completion_tokens == 3


def a_stream_comes_token_by_token(client):
    whole = ask(client).choices[0].message.content
    chunks, times = [], []
    for chunk in ask(client, stream=True, stream_options={"include_usage": True}):
        chunks.append(chunk)
        times.append(time.monotonic())
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole, (text, whole)
    assert len(chunks) >= 24, len(chunks)
    assert len(set(times)) == len(times)
    assert chunks[-1].usage.completion_tokens == 24 and not chunks[-1].choices
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert all(chunk.usage is None for chunk in chunks[:-1])
    no_usage = list(ask(client, stream=True))
    assert all(chunk.usage is None for chunk in no_usage)


def stop_texts_end_the_answer(client):
    assert ask(client, stop="little girl").choices[0].message.content == "Once upon a time, there was a "
    choice = ask(client, stop=["xyz", ", there"]).choices[0]
    assert choice.message.content == "Once upon a time" and choice.finish_reason == "stop"


def seeds_repeat(client):
    bold = lambda seed: ask(client, temperature=1.5, seed=seed).choices[0].message.content
    assert bold(1) == bold(1)
    assert bold(1) != bold(2)


def several_answers_come_at_once(client):
    answer = ask(client, n=3, temperature=1.5, seed=1)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2] and len(set(texts)) == 3
    streamed = ["", "", ""]
    for chunk in ask(client, n=3, temperature=1.5, seed=1, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts, (streamed, texts)


def logprobs_are_told(client):
    content = ask(client, logprobs=True, top_logprobs=2, max_tokens=3).choices[0].logprobs.content
    assert len(content) == 3 and content[0].token == "Once"
    assert bytes(content[0].bytes) == b"Once"
    assert content[0].logprob == content[0].top_logprobs[0].logprob <= 0
    assert content[0].top_logprobs[0].logprob >= content[0].top_logprobs[1].logprob
    assert ask(client, max_tokens=3).choices[0].logprobs is None


def a_bias_bans_and_forces(client):
    assert not ask(client, logit_bias={"430": -100}).choices[0].message.content.startswith("Once")
    forced = ask(client, logit_bias={"430": 100}, max_tokens=3).choices[0].message.content
    assert forced == "OnceOnceOnce", forced


def completions_continue_text(client):
    complete = lambda **more: client.completions.create(
        **{"model": "tales4m", "prompt": "Once upon a time", "temperature": 0, "max_tokens": 8, **more})
    answer = complete()
    assert answer.object == "text_completion"
    assert answer.choices[0].text.startswith(", there was a little girl"), answer
    assert complete(echo=True).choices[0].text.endswith(answer.choices[0].text)
    assert "".join(chunk.choices[0].text for chunk in complete(stream=True)) == answer.choices[0].text
    columns = complete(logprobs=2).choices[0].logprobs
    assert len(columns.tokens) == len(columns.token_logprobs) == len(columns.top_logprobs) == 8
    assert len(complete(prompt=["Once", "One day"]).choices) == 2
    refused(openai.BadRequestError, lambda: complete(suffix="end"))


def errors_have_their_classes(client):
    error = refused(openai.BadRequestError, lambda: ask(client, temperature=3))
    assert error.param == "temperature" and error.type == "invalid_request_error", error
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]
    assert "text" in refused(openai.BadRequestError, lambda: ask(client, messages=image)).message
    long = [{"role": "user", "content": "word " * 3000}]
    error = refused(openai.BadRequestError, lambda: ask(client, messages=long))
    assert error.code == "context_length_exceeded"
    assert refused(openai.NotFoundError, lambda: ask(client, model="gpt-9")).code == "model_not_found"
    models = client.models.list().data
    assert [model.id for model in models] == ["tales4m"]
    assert client.models.retrieve("tales4m").owned_by == "kwaainet"
    refused(openai.NotFoundError, lambda: client.models.retrieve("gpt-9"))


def two_streams_run_side_by_side(client):
    alone = ask(client, max_tokens=64).choices[0].message.content
    texts = {}

    def follow(name):
        stream = ask(client, max_tokens=64, stream=True)
        texts[name] = "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    threads = [threading.Thread(target=follow, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {0: alone, 1: alone}


def a_key_is_demanded(binary):
    with Server(binary, "--api-key", "secret") as server:
        assert refused(openai.AuthenticationError, lambda: ask(server.client())).code == "invalid_api_key"
        assert ask(server.client("secret"), max_tokens=2).usage.completion_tokens == 2


def a_client_that_leaves_frees_its_session(binary):
    with Server(binary, "--sessions", "1", "--threads", "1", KWAAINET_KERNELS="portable") as server:
        client = server.client()
        endless = dict(stream=True, max_tokens=900, temperature=2, logit_bias=ENDLESS)
        stream = ask(client, **endless)
        for _ in range(3):
            next(stream)
        assert server.health()["active"] == 1
        stream.close()
        wait_until("the session free", lambda: server.health()["active"] == 0, seconds=0.5)
        # Four times eight answers fill the one session and most of the queue; the next eight find no room.
        streams = [ask(client, **endless, n=8) for _ in range(4)]
        error = refused(openai.RateLimitError, lambda: ask(client, **endless, n=8))
        assert int(error.response.headers["retry-after"]) >= 1
        for stream in streams:
            stream.close()
        wait_until("the queue empty", lambda: server.health()["waiting"] == 0 == server.health()["active"])
        assert ask(client, max_tokens=2).usage.completion_tokens == 2


def main(binary):
    with Server(binary) as server:
        client = server.client()
        for check in (a_chat_is_answered, a_stream_comes_token_by_token, stop_texts_end_the_answer,
                      seeds_repeat, several_answers_come_at_once, logprobs_are_told, a_bias_bans_and_forces,
                      completions_continue_text, errors_have_their_classes, two_streams_run_side_by_side):
            check(client)
            print(f"ok {check.__name__}")
    for check in (a_key_is_demanded, a_client_that_leaves_frees_its_session):
        check(binary)
        print(f"ok {check.__name__}")
    print(f"openai {openai.__version__}: all checks passed")


if __name__ == "__main__":
    main(sys.argv[1])
