"""A hundred clients at once."""

import asyncio
from collections import Counter

import openai
import pytest

SCHEDULERS = ("fifo", "aggressive:watermark=1.0", "past-future")


def test_load(serve, plain_answers):
    """A hundred clients at once, some of which leave and some of which talk nonsense, under each scheduler."""
    prompts = [f"def f{i}(" + "x" * (7 * i) for i in range(10)]
    caps = [10 + 5 * (i % 7) for i in range(70)]
    plain = [plain_answers(prompt, set(caps)) for prompt in prompts]
    expected = [plain[i % 10][cap] for i, cap in enumerate(caps)]
    for scheduler in SCHEDULERS:
        with serve(scheduler=scheduler, num_blocks=24) as asked:
            answers = asyncio.run(_crowd(asked.url, prompts, caps))
            after = asked.idle()
            history = asked.server.scheduler.history
        ended = {how: after[f'heedful_generations_total{{how="{how}"}}'] for how in ("finished", "cancelled", "failed")}
        assert ended["finished"] >= 70 and ended["failed"] == 0
        # Seven of those that leave have seen a token; the others may be gone before the server has heard of them.
        assert 77 <= ended["finished"] + ended["cancelled"] <= 85
        refused = [f'heedful_requests_total{{path="/v1/completions",status="{status}"}}' for status in (400, 404)]
        assert [after[name] for name in refused] == [12, 3]
        assert answers == expected, scheduler
        if history is not None:
            recorded = Counter(history.values[500:])
            assert recorded.total() == ended["finished"]
            assert recorded >= Counter(length for _, length in expected)
        if scheduler.startswith("aggressive"):
            assert after["heedful_evictions_total"] > 0


async def _crowd(url, prompts, caps):
    """The answers and their lengths of the clients that wait for them, in order."""
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120)

    async def whole(i):
        options = {"model": "tiny", "prompt": prompts[i % 10], "max_tokens": caps[i]}
        if i % 2:
            answer = await client.completions.create(**options)
            return answer.choices[0].text, answer.usage.completion_tokens
        text, usage = "", None
        async for chunk in await client.completions.create(**options, stream=True):
            text, usage = text + chunk.choices[0].text, chunk.usage
        return text, usage.completion_tokens

    async def leaving(i):
        options = {"model": "tiny", "prompt": prompts[i % 10], "max_tokens": 250}
        if i % 2:
            stream = await client.completions.create(**options, stream=True)
            await anext(aiter(stream))
            await stream.close()
        else:
            asking = asyncio.create_task(client.completions.create(**options))
            await asyncio.sleep(0.5)
            asking.cancel()

    async def malformed(i):
        wrong = [{"max_tokens": -1}, {"prompt": 3}, {"what": 1}, {"max_tokens": 10_000}, {"model": "other"}][i % 5]
        with pytest.raises(openai.APIStatusError) as error:
            await client.completions.create(**{"model": "tiny", "prompt": "a", "extra_body": wrong})
        assert error.value.status_code in (400, 404)

    async with client:
        work = [whole(i) for i in range(70)] + [leaving(i) for i in range(15)] + [malformed(i) for i in range(15)]
        work = [work[i * 37 % 100] for i in range(100)]
        done = await asyncio.wait_for(asyncio.gather(*work), 120)
    return [done[i * 73 % 100] for i in range(70)]
