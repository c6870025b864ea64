"""The embedding classes for other servers than OpenAI's (Voyage AI, Infinity, Cloudflare's gateway,
MGTE here or on a server) and the rerankers.
"""

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace

import pytest
from embedding_server import SECRET, Reply, error, vector_of
from faultkit import run, until

from arshai_native import embeddings
from arshai_native.embeddings import (
    AsyncCloudflareGatewayEmbedding,
    AsyncInfinityEmbedding,
    AsyncMGTEEmbedding,
    AsyncVoyageAIEmbedding,
    AsyncVoyageReranker,
    Document,
    EmbeddingConfig,
    RerankInput,
)

pytest_plugins = ("faultfixtures", "embeddingfixtures")
pytestmark = pytest.mark.usefixtures("bounded")

TEXTS = [f"text {n}" for n in range(300)]
SOON = {"retry_after_ms": "10"}


# ---- Voyage AI ----


def voyage(api, config="voyage-3.5", **arguments):
    return AsyncVoyageAIEmbedding(
        config, api_key=SECRET, base_url=api.url, trust_env=False, **arguments
    )


def test_voyage_requests(api):
    """As voyageai 0.3.7 sends them: json.dumps' defaults, its order, what is None included."""
    with voyage(api) as embedding:
        assert embedding.dimension == 1024
        found = embedding.embed_document('h\u00e9 "q"')
        assert found == {"dense": vector_of('h\u00e9 "q"', 1024)}
        assert run(lambda: embedding.embed_document_async('h\u00e9 "q"')) == found
    assert {request.body for request in api.requests} == {
        b'{"input": ["h\\u00e9 \\"q\\""], "model": "voyage-3.5", "input_type": null, '
        b'"truncation": true, "output_dtype": null, "output_dimension": 1024, '
        b'"encoding_format": "base64"}'
    }
    assert api.requests[0].path == "/v1/embeddings"
    assert api.requests[0].headers["authorization"] == f"Bearer {SECRET}"
    api.requests.clear()
    voyage(api, dimension=256, input_type="query", truncation=False).embed_documents(["a", "b"])
    assert api.requests[0].body == (
        b'{"input": ["a", "b"], "model": "voyage-3.5", "input_type": "query", '
        b'"truncation": false, "output_dtype": null, "output_dimension": 256, '
        b'"encoding_format": "base64"}'
    )


def test_voyage_batches(api):
    """arshai's class has no use for the batch size that its configuration has by default."""

    class Configured(SimpleNamespace):  # as pydantic's models are
        model_fields_set = {"model_name"}

    plain = Configured(model_name="voyage-3-lite", batch_size=16, additional_params={})
    expected = [vector_of(text, 512) for text in TEXTS]
    for config, sizes in (
        (plain, [44, 128, 128]),
        (EmbeddingConfig("voyage-3-lite", 100), [100, 100, 100]),
        ({"model_name": "voyage-3-lite", "additional_params": {"batch_size": 150}}, [150, 150]),
    ):
        api.requests.clear()
        embedding = voyage(api, config)
        assert run(lambda e=embedding: e.embed_documents_async(TEXTS)) == {"dense": expected}
        assert sorted(map(len, api.inputs)) == sizes
        assert embedding.embed_documents(TEXTS) == {"dense": expected}
    assert embedding.embed_documents([]) == {"dense": []}


def test_voyage_models(api, caplog, monkeypatch):
    with pytest.raises(ValueError, match="Invalid dimension 7 for model voyage-3.5"):
        voyage(api, dimension=7)
    assert voyage(api, {"model_name": "voyage-code-3", "dimension": 2048}).dimension == 2048
    assert voyage(api, "voyage-large-2").dimension == 1536
    assert voyage(api, "new").dimension == 1024 and "new" in caplog.text
    for make in (AsyncVoyageAIEmbedding, AsyncVoyageReranker):
        with pytest.raises(ValueError, match="VOYAGE_API_KEY"):
            make("voyage-3")
    monkeypatch.setenv("VOYAGE_API_KEY", "pa-1")
    assert AsyncVoyageAIEmbedding("voyage-3").base_url == "https://api.voyageai.com/v1"
    assert AsyncVoyageAIEmbedding("voyage-3", api_key="al-1").base_url == (
        "https://ai.mongodb.com/v1"
    )


def detail(status, text="why"):
    return Reply(status, {"detail": text}, {"request-id": "r-1", "x-echo": SECRET})


def test_voyage_errors(api):
    api.script.extend(detail(status) for status in (400, 400, 401, 401, 429, 429, 503, 503))
    code = f"""
        import asyncio, sys
        sys.modules["voyageai"] = sys.modules["voyageai.error"] = None
        from arshai_native.embeddings import AsyncVoyageAIEmbedding
        embedding = AsyncVoyageAIEmbedding(
            "voyage-3", api_key={SECRET!r}, base_url={api.url!r}, max_retries=0
        )
        for n in range(4):
            for call in (
                lambda: embedding.embed_document("bad"),
                lambda: asyncio.run(embedding.embed_document_async("bad")),
            ):
                try:
                    call()
                except Exception as error:
                    assert {SECRET!r} not in str(vars(error)) + str(error.args)
                    print(type(error).__name__, error.http_status, error.user_message,
                          error.request_id)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == [
        line
        for name in (
            "InvalidRequestError 400 why r-1",
            "AuthenticationError 401 why r-1",
            "RateLimitError 429 why r-1",
            "ServiceUnavailableError 503 The server is overloaded or not ready yet. r-1",
        )
        for line in (name, name)
    ], done.stderr


def test_voyage_gathers(api):
    embedding = voyage(api, gather_wait=1000, max_retries=0)
    api.refuse["bad"] = lambda: detail(400)

    async def main():
        with api.hold():
            texts = ["first", "a", "bad", "b"]
            tasks = [asyncio.ensure_future(embedding.aembed_document(text)) for text in texts]
            assert await until(lambda: api.together == 1)
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, a, bad, b = run(main)
    assert [first, a, b] == [{"dense": vector_of(t, 1024)} for t in ("first", "a", "b")]
    assert type(bad).__name__ == "InvalidRequestError" and bad.http_status == 400
    assert [len(inputs) for inputs in api.inputs] == [1, 3, 1, 1, 1]


class Image:
    """What is needed of PIL's."""

    def convert(self, mode):
        assert mode == "RGB"
        return self

    def save(self, file, format, lossless):
        assert (format, lossless) == ("WEBP", True)
        assert threading.current_thread() is not threading.main_thread() or not loop_runs()
        file.write(b"webp")


def loop_runs():
    return asyncio._get_running_loop() is not None


def test_voyage_images(api):
    embedding = voyage(api, "voyage-multimodal-3")
    text = {"type": "text", "text": "t"}
    image = {"type": "image_base64", "image_base64": "data:image/webp;base64,d2VicA=="}
    found = embedding.multimodel_embed(["t", Image()])
    assert found == vector_of({"content": [text, image]})
    assert run(lambda: embedding.multimodel_embed_async(["t", Image()])) == found
    bulk = ["t", Image(), ("t", Image()), (None, Image())]
    found = embedding.multimodel_embed_bulk(bulk)
    contents = [[text], [image], [text, image], [image]]
    assert found == [vector_of({"content": content}) for content in contents]
    assert run(lambda: embedding.multimodel_embed_bulk_async(bulk)) == found
    assert api.requests[0].body == (
        b'{"inputs": [{"content": [{"type": "text", "text": "t"}, {"type": "image_base64", '
        b'"image_base64": "data:image/webp;base64,d2VicA=="}]}], "model": "voyage-multimodal-3", '
        b'"input_type": null, "truncation": true, "output_dtype": null, '
        b'"output_dimension": null, "encoding_format": "base64"}'
    )
    with pytest.raises(ValueError, match="Expected str or PIL Image"):
        embedding.multimodel_embed([3])


# ---- reranking ----

DOCUMENTS = [
    Document("short", {"id": 1}),
    Document("the longest of all", {"id": 2}),
    Document("in between", {"id": 3}),
]
RANKED = [
    Document("the longest of all", {"id": 2, "relevance_score": 0.018}),
    Document("in between", {"id": 3, "relevance_score": 0.01}),
    Document("short", {"id": 1, "relevance_score": 0.005}),
]


def all_ways(reranker, input):
    results = [
        reranker.rerank(input),
        run(lambda: reranker.arerank(input)),
        run(lambda: reranker.rerank_async(input)),
    ]
    assert results[0] == results[1] == results[2]
    return results[0]


def test_voyage_reranker(api):
    with AsyncVoyageReranker(api_key=SECRET, base_url=api.url, trust_env=False) as reranker:
        input = RerankInput("q", DOCUMENTS)
        assert all_ways(reranker, input) == RANKED
        assert {request.body for request in api.requests} == {
            b'{"query": "q", "documents": ["short", "the longest of all", "in between"], '
            b'"model": "rerank-2", "top_k": 3, "truncation": true}'
        }
        assert api.requests[0].path == "/v1/rerank"
        assert [document.metadata for document in DOCUMENTS] == [{"id": 1}, {"id": 2}, {"id": 3}]
        as_dict = {"query": "q", "documents": ["aa", {"page_content": "bbb", "metadata": {"n": 1}}]}
        assert all_ways(reranker, as_dict) == [
            Document("bbb", {"n": 1, "relevance_score": 0.003}),
            Document("aa", {"relevance_score": 0.002}),
        ]
    two = AsyncVoyageReranker("rerank-lite-1", 2, SECRET, base_url=api.url, trust_env=False)
    assert all_ways(two, input) == RANKED[:2]
    assert SECRET not in repr(two)


def test_voyage_reranker_returns_what_it_got_after_an_error(api, caplog):
    reranker = AsyncVoyageReranker(api_key=SECRET, base_url=api.url, max_retries=0)
    input = RerankInput("q", DOCUMENTS)
    wrong = {"data": [{"index": 9, "relevance_score": 1}]}
    for reply in (
        detail(400, SECRET),
        Reply(200, b"{}"),
        Reply(200, wrong),
        Reply(200, b"{" * 99, cut=True),
    ):
        api.script.extend([reply] * 3)
        caplog.clear()
        assert all_ways(reranker, input) == DOCUMENTS
        assert caplog.text.count("Voyage reranking error") == 3 and SECRET not in caplog.text
    strict = AsyncVoyageReranker(api_key="k", base_url=api.url, max_retries=0, raise_errors=True)
    api.script.append(Reply(200, wrong))
    with pytest.raises(ValueError, match="no ranking"):
        strict.rerank(input)

    async def cancelled():
        with api.hold():
            await asyncio.wait_for(reranker.arerank(input), 0.1)

    with pytest.raises(TimeoutError):
        run(cancelled)


def test_arshais_documents(api):
    """Where arshai is imported, its own go in and come out."""
    interfaces = pytest.importorskip("arshai.core.interfaces.ireranker")
    from arshai.core.interfaces.idocument import Document as Theirs

    input = interfaces.IRerankInput(
        query="q", documents=[Theirs(page_content=d.page_content) for d in DOCUMENTS]
    )
    reranker = AsyncVoyageReranker(api_key=SECRET, base_url=api.url, trust_env=False)
    found = all_ways(reranker, input)
    assert [type(document) for document in found] == [Theirs] * 3
    assert [d.page_content for d in found] == [d.page_content for d in RANKED]
    assert found[0].metadata == {"relevance_score": 0.018}


# ---- Infinity ----


def test_infinity(api, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)  # is no business of a server of one's own
    monkeypatch.setenv("INFINITY_BASE_URL", api.url)
    embedding = AsyncInfinityEmbedding("minilm", trust_env=False)
    assert embedding.dimension == 8  # asked for
    assert len(api.requests) == 1
    assert run(lambda: embedding.embed_documents_async(TEXTS[:20])) == {
        "dense": [vector_of(text) for text in TEXTS[:20]]
    }
    assert api.requests[1].json["encoding_format"] == "float"
    assert all("authorization" not in request.headers for request in api.requests)
    keyed = AsyncInfinityEmbedding({"model_name": "m"}, api_key="k", trust_env=False)
    keyed.embed_document("x")
    assert api.requests[-1].headers["authorization"] == "Bearer k" and keyed.dimension == 8
    assert len(api.requests) == 4
    monkeypatch.delenv("INFINITY_BASE_URL")
    assert AsyncInfinityEmbedding("m").base_url == "http://localhost:7997"


def test_infinity_reranks(api):
    embedding = AsyncInfinityEmbedding(
        "minilm", base_url=api.url, rerank_model="ranker", trust_env=False, max_retries=0
    )
    input = RerankInput("q", DOCUMENTS)
    assert all_ways(embedding, input) == RANKED
    assert api.requests[0].path == "/v1/rerank" and api.requests[0].json == {
        "query": "q", "documents": [document.page_content for document in DOCUMENTS],
        "return_documents": False, "model": "ranker",
    }  # fmt: skip
    two = AsyncInfinityEmbedding("minilm", base_url=api.url, top_k=2, trust_env=False)
    assert all_ways(two, input) == RANKED[:2] and api.requests[-1].json["model"] == "minilm"
    count = len(api.requests)
    assert all_ways(two, RerankInput("q", [])) == [] and len(api.requests) == count
    api.script.append(error(400))
    with pytest.raises(embeddings.BadRequestError):
        embedding.rerank(input)


# ---- Cloudflare's gateway ----

GATEWAY = {"account_id": "acc", "gateway_id": "gw", "gateway_token": SECRET}
PROVIDERS = {
    "openai": "openai/v1",
    "cohere": "cohere/v1",
    "bedrock": "aws-bedrock/bedrock-runtime/us-east-1",
    "workers-ai": "workers-ai/v1",
    "openrouter": "openrouter/v1",
    "google-ai-studio": "google-ai-studio/v1",
    "mistral": "mistral/v1",
    "another": "another/v1",
}


def gateway(api, **arguments):
    given = {"provider": "openai", "model_name": "text-embedding-3-small", **arguments}
    return AsyncCloudflareGatewayEmbedding(GATEWAY, base_url=api.url, trust_env=False, **given)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_cloudflare_beside_arshais(api, provider, monkeypatch):
    """arshai's class through the real SDK, and ours, on the same server."""
    module = pytest.importorskip("arshai.embeddings.cloudflare_gateway_embedding")
    config = module.CloudflareGatewayEmbeddingConfig(
        **GATEWAY, provider=provider, model_name="embed-english-v3.0"
    )
    monkeypatch.setattr(
        type(config), "base_url", property(lambda self: f"{api.url}/{self.account_id}")
    )
    api.reverse = True
    texts = TEXTS[:40]
    with module.CloudflareGatewayEmbedding(config) as theirs:
        expected = theirs.embed_documents(texts)
        assert expected == {"dense": [vector_of(text) for text in texts]}
        dimension = theirs.dimension
    sent, api.requests = api.requests, []
    ours = AsyncCloudflareGatewayEmbedding(config, base_url=f"{api.url}/acc", trust_env=False)
    assert ours.embed_documents(texts) == expected and ours.dimension == dimension == 1024
    assert sorted(r.body for r in sent) == sorted(r.body for r in api.requests)
    assert {r.path for r in sent} == {r.path for r in api.requests}
    assert api.requests[0].path == f"/v1/acc/{PROVIDERS[provider]}/embeddings"
    for name in ("authorization", "http-referer", "x-title", "accept", "content-type"):
        assert sent[0].headers[name] == api.requests[0].headers[name]
    assert run(lambda: ours.aembed_documents(texts)) == expected
    assert run(lambda: ours.aembed_document("x")) == {"dense": vector_of("x")}


def test_cloudflare(api, monkeypatch, caplog):
    with gateway(api) as embedding:
        assert embedding.dimension == 1536 and embedding.batch_size == 32
        status = embedding.health_check()
        assert status.pop("latency_ms") > 0
        assert status == {
            "initialized": True, "provider": "openai", "model": "text-embedding-3-small",
            "dimension": 1536, "healthy": True,
        }  # fmt: skip
        assert run(embedding.health_check_async)["healthy"] is True
        api.script.extend([error(401, SECRET)] * 2)
        for status in (embedding.health_check(), run(embedding.health_check_async)):
            assert status["healthy"] is False and "401" in status["error"]
            assert SECRET not in str(status)
        assert SECRET not in repr(embedding)
    embedding.close()
    # Four attempts, as max_retries is 3.
    api.requests.clear()
    api.script.extend([error(500, **SOON)] * 3)
    assert embedding.embed_document("x") == {"dense": vector_of("x")} and len(api.requests) == 4
    assert gateway(api, dimensions=5).dimension == 5
    assert gateway(api, model_name="openai/text-embedding-3-large").dimension == 3072
    assert gateway(api, model_name="new").dimension == 1536 and "Unknown model" in caplog.text
    azure = gateway(api, provider="azure", azure_resource="r", azure_deployment="d")
    assert azure.base_url == f"{api.url}/azure-openai/r/d"
    for wrong in ({"provider": "azure"}, {"model_name": ""}, {"provider": ""}):
        with pytest.raises(ValueError):
            gateway(api, **wrong)
    with pytest.raises(ValueError, match="CLOUDFLARE_GATEWAY_TOKEN"):
        AsyncCloudflareGatewayEmbedding(provider="openai", model_name="m", base_url=api.url)
    monkeypatch.setenv("CLOUDFLARE_GATEWAY_TOKEN", SECRET)
    with pytest.raises(ValueError, match="account_id and gateway_id"):
        AsyncCloudflareGatewayEmbedding(provider="openai", model_name="m")
    assert (
        AsyncCloudflareGatewayEmbedding(
            provider="openai", model_name="m", account_id="a", gateway_id="g"
        ).base_url
        == "https://gateway.ai.cloudflare.com/v1/a/g/openai/v1"
    )


# ---- MGTE ----


class Row(list):
    """A row of numpy's, as far as it is needed."""

    def tolist(self):
        return list(self)


class Matrix(list):
    """A sparse matrix that gives rows by [[number]]."""

    def __getitem__(self, key):
        return ("row", list.__getitem__(self, key[0]))


@pytest.fixture
def model(monkeypatch):
    """milvus_model's function, which is too large for a test; it says who called it."""
    state = SimpleNamespace(calls=[], threads=set(), together=0, most=0, made=[], wait=0.02)

    class MGTEEmbeddingFunction:
        dim = {"dense": 8, "sparse": 250002}

        def __init__(self, **arguments):
            state.made.append(arguments)

        def __call__(self, texts):
            state.together += 1
            state.most = max(state.most, state.together)
            state.calls.append(list(texts))
            state.threads.add(threading.current_thread())
            time.sleep(state.wait)
            state.together -= 1
            if "bad" in texts:
                raise RuntimeError("bad text")
            return {"dense": [Row(vector_of(t)) for t in texts], "sparse": Matrix(texts)}

    hybrid = SimpleNamespace(MGTEEmbeddingFunction=MGTEEmbeddingFunction)
    monkeypatch.setitem(sys.modules, "milvus_model", SimpleNamespace(hybrid=hybrid))
    monkeypatch.setitem(sys.modules, "milvus_model.hybrid", hybrid)
    return state


def pairs(texts):
    return {"dense": [vector_of(t) for t in texts], "sparse": [("row", t) for t in texts]}


def test_mgte_in_this_process(model):
    embedding = AsyncMGTEEmbedding(EmbeddingConfig("gte", 4, {"device": "cuda:0"}))
    assert model.made == []  # not before it is needed
    assert embedding.dimension == 8
    assert model.made == [
        {"model_name": "gte", "batch_size": 4, "use_fp16": False, "device": "cuda:0"}
    ]
    assert embedding.embed_documents(TEXTS[:6]) == pairs(TEXTS[:6])
    assert embedding.embed_document("x") == {"dense": vector_of("x"), "sparse": ("row", "x")}
    assert embedding.embed_documents([]) == {"dense": [], "sparse": []}

    async def main():
        model.threads.clear()
        await embedding.load_async()
        found = await embedding.embed_documents_async(TEXTS[:10])
        assert await embedding.aembed_documents([]) == {"dense": [], "sparse": []}
        return found, await embedding.embed_document_async("x")

    found, alone = run(main)
    assert found == pairs(TEXTS[:10])
    assert alone == {"dense": vector_of("x"), "sparse": ("row", "x")}
    assert threading.main_thread() not in model.threads and len(model.threads) == 1
    assert len(model.made) == 1 and model.most == 1
    assert max(map(len, model.calls)) == 4
    embedding.close_sync()
    assert run(lambda: embedding.embed_document_async("x")) == alone


def test_mgte_computes_one_batch_at_a_time(model):
    embedding = AsyncMGTEEmbedding("gte", batch_size=4)
    turns = 0

    async def count():
        nonlocal turns
        while True:
            await asyncio.sleep(0.001)
            turns += 1

    async def main():
        counting = asyncio.ensure_future(count())
        tasks = [embedding.embed_document_async(text) for text in TEXTS[:21]]
        thread = threading.Thread(target=embedding.embed_documents, args=(["t"] * 8,))
        thread.start()
        found = await asyncio.gather(*tasks)
        counting.cancel()
        thread.join()
        return found

    assert run(main) == [{"dense": vector_of(t), "sparse": ("row", t)} for t in TEXTS[:21]]
    assert model.most == 1 and turns > 20
    assert len(model.calls) <= 1 + 5 + 2 + 2  # gathered


def test_mgte_errors_reach_their_own(model):
    embedding = AsyncMGTEEmbedding("gte", gather_wait=1000)

    async def main():
        texts = ["first", "a", "bad", "b", 3]
        tasks = [embedding.embed_document_async(text) for text in texts]
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, a, bad, b, number = run(main)
    assert [found["sparse"] for found in (first, a, b)] == [("row", t) for t in ("first", "a", "b")]
    assert isinstance(bad, RuntimeError) and isinstance(number, TypeError)
    with pytest.raises(TypeError, match="'verify'"):
        AsyncMGTEEmbedding("gte", verify=False)


def test_mgte_without_milvus_model(monkeypatch):
    monkeypatch.setitem(sys.modules, "milvus_model", None)
    embedding = AsyncMGTEEmbedding("gte")
    with pytest.raises(ModuleNotFoundError):
        embedding.embed_document("x")
    with pytest.raises(ModuleNotFoundError):
        run(lambda: embedding.embed_document_async("x"))


def test_mgte_on_a_server(api):
    api.sparse = api.reverse = True
    embedding = AsyncMGTEEmbedding("gte", base_url=api.url, batch_size=4, trust_env=False)
    assert embedding.dimension == 8
    expected = {
        "dense": [vector_of(text) for text in TEXTS[:6]],
        "sparse": [{n % 4: 0.5, 7: 0.25} for n in range(6)],
    }
    assert embedding.embed_documents(TEXTS[:6]) == expected
    assert run(lambda: embedding.embed_documents_async(TEXTS[:6])) == expected
    alone = {"dense": vector_of("x"), "sparse": {0: 0.5, 7: 0.25}}
    assert embedding.embed_document("x") == alone
    assert run(lambda: embedding.aembed_document("x")) == alone
    for sparse in ({"indices": [3, 5], "values": [0.5, 0.25]},
                   [{"index": 3, "value": 0.5}, {"index": 5, "value": 0.25}]):  # fmt: skip
        item = {"index": 0, "embedding": [1.0], "sparse_embedding": sparse}
        api.script.append(Reply(200, {"data": [item]}))
        assert embedding.embed_document("x") == {"dense": [1.0], "sparse": {3: 0.5, 5: 0.25}}
    api.sparse = False
    with pytest.raises(ValueError, match="no sparse vectors"):
        embedding.embed_document("x")
    api.script.append(Reply(200, {"data": []}))
    with pytest.raises(ValueError, match="1 texts were sent and 0"):
        embedding.embed_document("x")
