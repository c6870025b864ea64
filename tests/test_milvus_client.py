"""The Milvus client's surface: its constructor, what it sends, what it leaves to pymilvus, and
every other method beside pymilvus's on a real server.
"""

import asyncio
import base64
import inspect
import logging
import os
import subprocess
import sys
import textwrap
import threading

import grpc
import pymilvus
import pytest
from faultkit import run
from grpc._cython import cygrpc
from milvusfake import (
    SEARCH_ERRORS,
    SEARCH_OPTIONS,
    FakeMilvus,
    Status,
    collection,
    search_reply,
)
from milvuskit import anonymous, clients, name_of, outcome, peers_refuse, same
from milvusservers import lite_packages
from pymilvus import DataType
from pymilvus.client.async_grpc_handler import AsyncGrpcHandler
from pymilvus.client.prepare import Prepare
from pymilvus.grpc_gen import milvus_pb2

from arshai_native import _core, _milvus_wire, milvus
from arshai_native.milvus import AsyncMilvusClient, NativeChannel

pytest_plugins = ("milvusfixtures",)
pytestmark = pytest.mark.usefixtures("milvus_environment")

SECRET = "root:very-secret-password"


@pytest.fixture
def fake():
    with FakeMilvus() as server:
        yield server


VECTOR = [[0.5, 0.25, 0.125, 1.0]]


# ---- the surface ----


def test_everything_of_pymilvus_can_be_imported_from_here():
    assert milvus.MilvusClient is pymilvus.MilvusClient
    assert milvus.MilvusException is pymilvus.MilvusException
    assert milvus.AsyncMilvusClient is not pymilvus.AsyncMilvusClient
    assert milvus.DataType is pymilvus.DataType
    assert set(pymilvus.__all__) < set(milvus.__all__)


def test_it_has_every_method_of_the_synchronous_client():
    public = {name for name in dir(pymilvus.MilvusClient) if not name.startswith("_")}
    assert public - set(dir(AsyncMilvusClient)) <= {"session"}


def test_methods_look_like_pymilvuss():
    for name, method in inspect.getmembers(pymilvus.AsyncMilvusClient, inspect.isfunction):
        if name.startswith("_") and name != "__init__":
            continue
        ours = getattr(AsyncMilvusClient, name)
        assert inspect.signature(ours) == inspect.signature(method), name
        assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(method), name
    assert issubclass(AsyncMilvusClient, pymilvus.AsyncMilvusClient)


# ---- where and as whom it connects ----


def test_the_channel_is_native(fake):
    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            assert type(client._handler._async_channel) is NativeChannel
            assert client._handler._async_channel.get_state() is grpc.ChannelConnectivity.READY

    run(main)


@pytest.mark.parametrize(
    "options",
    [
        {"token": SECRET},
        {"user": "root", "password": "very-secret-password"},
        {"in_uri": True},
    ],
    ids=["token", "user", "uri"],
)
def test_who_it_is(fake, options):
    uri = fake.uri
    if options.pop("in_uri", False):
        uri = uri.replace("http://", f"http://{SECRET}@")

    async def main():
        seen = []
        for kind in (AsyncMilvusClient, pymilvus.AsyncMilvusClient):
            client = kind(uri, db_name="some_db", **options)
            await client.search("c", data=VECTOR)
            seen.append(fake.metadata("Search"))
            connect = fake.metadata("Connect")
            assert connect["authorization"] == base64.b64encode(SECRET.encode()).decode()
            assert SECRET.split(":")[1] not in repr(client) + repr(client._handler)
            await client.close()
        for metadata in seen:
            for name in ("user-agent", "client-request-unixmsec", "grpc-accept-encoding"):
                metadata.pop(name, None)
        assert seen[0] == seen[1]
        assert seen[0]["dbname"] == "some_db" and seen[0]["identifier"] == "77"

    run(main)


def test_database_of_the_uri_and_use_database(fake):
    fake.on("DescribeDatabase", lambda _: milvus_pb2.DescribeDatabaseResponse())

    async def main():
        client = AsyncMilvusClient(fake.uri + "/first")
        await client.search("c", data=VECTOR)
        assert fake.metadata("Search")["dbname"] == "first"
        await client.use_database("second")
        await client.search("c", data=VECTOR, client_request_id="mine")
        assert fake.metadata("Search")["dbname"] == "second"
        assert fake.metadata("Search")["client-request-id"] == "mine"
        await client.close()

    run(main)


def test_vectors_are_left_to_a_pymilvus_that_encodes_them_otherwise(fake, monkeypatch):
    assert _milvus_wire.vectors_agree()
    encode = _core.milvus_vectors
    monkeypatch.setattr(_milvus_wire, "_vectors_agree", None)
    monkeypatch.setattr(_core, "milvus_vectors", lambda data, kind=0: encode(data[:1], kind))

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            assert len(await client.search("c", data=VECTOR * 2)) == 2
            with monkeypatch.context() as patch:
                peers_refuse(patch, "search")
                with pytest.raises(AssertionError, match="search was left"):
                    await client.search("c", data=VECTOR)

    run(main)
    assert _milvus_wire._vectors_agree is False


def test_unix_socket(lite, tmp_path):
    """Through a relay, as no server here listens on one."""

    async def main():
        async def relay(reader, writer):
            other = await asyncio.open_connection("127.0.0.1", lite.port)

            async def copy(source, target):
                while data := await source.read(65536):
                    target.write(data)
                target.close()

            await asyncio.gather(copy(reader, other[1]), copy(other[0], writer))

        names = sorted(pymilvus.MilvusClient(lite.uri).list_collections())
        path = str(tmp_path / "s")
        listener = await asyncio.start_unix_server(relay, path)
        for uri in (f"unix:{path}", f"unix://{path}"):
            client = AsyncMilvusClient(uri)
            assert sorted(await client.list_collections()) == names
            assert type(client._handler._async_channel) is NativeChannel
            await client.close()
        listener.close()

    run(main)


@pytest.mark.parametrize("uri", ["ftp://localhost:1", "localhost:19530", "/no/such/folder/m.db"])
def test_uris_that_are_none(uri):
    raised = []
    for kind in (AsyncMilvusClient, pymilvus.AsyncMilvusClient):
        with pytest.raises(pymilvus.MilvusException) as caught:
            kind(uri)
        raised.append((type(caught.value), caught.value.code, caught.value.message))
    assert raised[0] == raised[1]


def test_options_of_grpc(fake):
    async def main():
        known = {"grpc.keepalive_time_ms": 3000, "grpc.max_receive_message_length": 1 << 20}
        client = AsyncMilvusClient(fake.uri, grpc_options=known)
        await client.search("c", data=VECTOR)
        assert type(client._handler._async_channel) is NativeChannel
        await client.close()
        # One that the engine does not know is grpc's own to serve.
        known = {cygrpc.ChannelArgKey.max_receive_message_length: 1 << 20}
        client = AsyncMilvusClient(fake.uri, grpc_options=known)
        await client.search("c", data=VECTOR)
        assert type(client._handler._async_channel) is NativeChannel
        await client.close()
        client = AsyncMilvusClient(fake.uri, grpc_options={"grpc.lb_policy_name": "round_robin"})
        await client.search("c", data=VECTOR)
        assert client._handler.native is None
        await client.close()
        await asyncio.sleep(0)

    run(main)


def test_a_proxy_is_grpcs_own_to_go_through(fake, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    async def main():
        for excluded, native in (("", False), ("127.0.0.1", True)):
            monkeypatch.setenv("no_proxy", excluded)
            client = AsyncMilvusClient(fake.uri)
            handler = client._config  # the handler is made when it connects
            from arshai_native.milvus._connection import NativeHandler

            made = NativeHandler(address=handler.address)
            assert (made.native is not None) is native
            await made.close()

    run(main)


def test_milvus_lite_in_a_file(tmp_path):
    packages = lite_packages()
    if packages is None:
        pytest.skip("milvus-lite is not installed: make build/.milvus-lite says why")
    if "python{}.{}".format(*sys.version_info) not in str(packages):
        pytest.skip("milvus-lite is installed for another Python than this one")
    code = """
        import asyncio, sys
        sys.path.append(sys.argv[2])
        from arshai_native.milvus import AsyncMilvusClient

        async def main():
            client = AsyncMilvusClient(sys.argv[1])
            await client.create_collection("c", dimension=4)
            await client.insert("c", [{"id": 3, "vector": [1.0, 2.0, 3.0, 4.0]}])
            print(await client.get("c", 3, output_fields=["id"]))
            print(type(client._handler._async_channel).__name__)
            await client.close()

        asyncio.run(main())
    """
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "m.db"), str(packages)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert "{'id': 3}" in process.stdout and "NativeChannel" in process.stdout, process.stderr


# ---- clients, connections, loops ----


def test_clients_share_a_connection_and_the_last_one_closes_it(fake):
    async def main():
        one, other = AsyncMilvusClient(fake.uri), AsyncMilvusClient(fake.uri)
        alone = AsyncMilvusClient(fake.uri, dedicated=True)
        for client in (one, other, alone):
            await client.search("c", data=VECTOR)
        assert one._handler is other._handler is not alone._handler
        channel = one._handler._async_channel
        await one.close()
        assert channel.get_state() is grpc.ChannelConnectivity.READY
        assert (await other.search("c", data=VECTOR))[0]
        await other.close()
        await alone.close()
        assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
        again = AsyncMilvusClient(fake.uri)
        assert (await again.search("c", data=VECTOR))[0]
        await again.close()
        with pytest.raises(pymilvus.MilvusException, match="should create connection first"):
            await again.search("c", data=VECTOR)

    run(main)


def test_many_first_calls_connect_once(fake):
    async def main():
        client = AsyncMilvusClient(fake.uri, dedicated=True)
        await asyncio.gather(*(client.search("c", data=VECTOR) for _ in range(100)))
        assert fake.calls["Connect"] == 1
        await client.close()

    run(main)


def test_event_loops_one_after_the_other_and_at_once(fake):
    client = AsyncMilvusClient(fake.uri)

    async def main():
        for _ in range(20):
            assert len(await client.search("c", data=VECTOR)) == 1
        assert await client.get("c", [1]) is not None

    fake.on(
        "Query",
        lambda _: milvus_pb2.QueryResults(
            fields_data=[{"type": 5, "field_name": "id", "scalars": {"long_data": {"data": [1]}}}]
        ),
    )
    for _ in range(3):
        asyncio.run(main())
    failed = []

    def work():
        try:
            asyncio.run(main())
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failed
    assert fake.calls["Connect"] == 1
    asyncio.run(client.close())


# ---- what a request says ----


@pytest.mark.parametrize("options", SEARCH_OPTIONS.values(), ids=SEARCH_OPTIONS)
def test_searches_are_asked_as_pymilvus_asks(fake, monkeypatch, options):
    other = [[1.0, 2.0, 3.0, 4.0]]

    async def main():
        async with clients(fake) as (ours, theirs):
            asked = {}
            for client in (theirs, ours):
                if client is ours:
                    peers_refuse(monkeypatch, "search", "insert")
                    pymilvus.client.cache.GlobalCache._reset_for_testing()
                # The first builds the template, the second uses it, after a write the third does.
                await client.search("c", data=VECTOR, **options)
                await client.search("c", data=other, **options)
                if client is theirs:
                    await client.insert("c", [{"id": 1, "vector": [1.0] * 4}])
                else:
                    from pymilvus.client import ts_utils

                    ts_utils.update_collection_ts("c", 1000, client._handler.server_address, "")
                await client.search("c", data=other, **options)
                asked[client] = fake.asked("Search")[-3:]
            for mine, expected in zip(asked[ours], asked[theirs], strict=True):
                assert mine == expected

    run(main)


def test_arguments_by_position(fake):
    """In whatever order the installed version has them."""
    names = list(inspect.signature(pymilvus.AsyncMilvusClient.search).parameters)[2:-1]
    values = {
        "data": VECTOR, "filter": "id > 1", "limit": 3, "output_fields": ["a"],
        "search_params": {"params": {"ef": 5}}, "timeout": 20, "partition_names": ["p"],
        "anns_field": "vector",
    }  # fmt: skip

    async def main():
        async with clients(fake) as (ours, theirs):
            for count in range(1, len(names) + 1):
                args = [values.get(name) for name in names[:count]]
                await ours.search("c", *args)
                await theirs.search("c", *args)
                mine, expected = fake.asked("Search")[-2:]
                assert mine == expected, args
            by_name = await outcome(lambda: ours.search("c", ids=[1], anns_field="vector"))
            same(by_name, await outcome(lambda: theirs.search("c", ids=[1], anns_field="vector")))
            assert fake.asked("Search")[-1].ids == fake.asked("Search")[-2].ids

    run(main)


def test_the_arguments_are_not_changed(fake):
    parameters = {"metric_type": "L2"}

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            for _ in range(2):
                await client.search("c", data=VECTOR, search_params=parameters)
            assert parameters == {"metric_type": "L2"}

    run(main)


def test_changed_arguments_are_noticed(fake):
    parameters = {"params": {"ef": 1}}

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            for ef in (1, 1.0, True, "1", 2):
                parameters["params"]["ef"] = ef
                await client.search("c", data=VECTOR, search_params=parameters)
            sent = [
                {each.key: each.value for each in request.search_params}["params"]
                for request in fake.asked("Search")
            ]
            assert sent == ['{"ef":1}', '{"ef":1.0}', '{"ef":true}', '{"ef":"1"}', '{"ef":2}']

    run(main)


def test_a_client_does_not_keep_every_filter_there_ever_was(fake):
    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            for number in range(700):
                await client.search("c", data=VECTOR, filter=f"id == {number}")
            assert len(client._plans) <= 512

    run(main)


# ---- who else has a say ----


def test_a_subclass_sees_the_calls(fake):
    seen = []

    class Mine(AsyncMilvusClient):
        async def search(self, *args, **kwargs):
            seen.append("search")
            return await super().search(*args, **kwargs)

        def _generate_call_context(self, **kwargs):
            seen.append("context")
            context = super()._generate_call_context(**kwargs)
            context._client_request_id = "of a subclass"
            return context

    async def main():
        async with Mine(fake.uri) as client:
            await client.search("c", data=VECTOR)
        assert "search" in seen and "context" in seen
        assert fake.metadata("Search")["client-request-id"] == "of a subclass"

    run(main)


PATCHES = {
    "the client's method": (pymilvus.AsyncMilvusClient, "search"),
    "the handler's method": (AsyncGrpcHandler, "search"),
    "how it executes": (AsyncGrpcHandler, "_execute_search"),
    "how it is prepared": (Prepare, "search_requests_with_expr"),
}


@pytest.mark.parametrize("place", PATCHES.values(), ids=PATCHES)
def test_patches_see_the_calls(fake, monkeypatch, place):
    owner, name = place
    original = getattr(owner, name)
    seen = []

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            await client.search("c", data=VECTOR)

            if inspect.iscoroutinefunction(original):

                async def patched(*args, **kwargs):
                    seen.append(name)
                    return await original(*args, **kwargs)

            else:

                def patched(*args, **kwargs):
                    seen.append(name)
                    return original(*args[1:], **kwargs)

                patched = classmethod(patched)
            with monkeypatch.context() as context:
                context.setattr(owner, name, patched)
                assert len(await client.search("c", data=VECTOR)) == 1
                assert seen == [name]
            assert len(await client.search("c", data=VECTOR)) == 1
            assert seen == [name]

    run(main)


def test_interceptors_of_somebody_elses_see_the_calls(fake):
    seen = []

    class Interceptor(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation, details, request):
            seen.append((details.method, type(request)))
            call = await continuation(details, request)
            assert await call.code() is grpc.StatusCode.OK
            return call

    async def main():
        async with AsyncMilvusClient(fake.uri, dedicated=True) as client:
            client._handler._async_channel._unary_unary_interceptors.append(Interceptor())
            await client.search("c", data=VECTOR)
            assert fake.metadata("Search")["identifier"] == "77"
        assert seen == [("/milvus.proto.milvus.MilvusService/Search", milvus_pb2.SearchRequest)]

    run(main)


def test_an_error_is_logged_once_and_without_the_token(fake, caplog):
    fake.on("Search", lambda _: milvus_pb2.SearchResults(status={"code": 5, "reason": "broken"}))

    async def main():
        async with AsyncMilvusClient(fake.uri, token=SECRET) as client:
            with pytest.raises(pymilvus.MilvusException):
                await client.search("c", data=VECTOR)

    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "pymilvus.decorators"):
        run(main)
    records = [each for each in caplog.records if each.name == "pymilvus.decorators"]
    assert len(records) == 1 and "[search]" in records[0].getMessage()
    assert "very-secret" not in caplog.text
    assert base64.b64encode(SECRET.encode()).decode() not in caplog.text


# ---- every other method, on a real server ----


# What these return is one collection's alone, in numbers and times.
OF_ITS_OWN = frozenset(
    ("describe_collection", "list_collections", "describe_index", "describe_replica", "compact")
)


def test_the_life_of_a_collection(lite):
    """The same steps with both clients; every outcome is compared, whatever the server can do."""

    async def main():
        async with clients(lite) as (ours, theirs):
            names = {ours: name_of("same"), theirs: name_of("same")}

            async def step(method, *args, **kwargs):
                found = []
                for client in (ours, theirs):
                    words = {"NAME": names[client], "NEW": "new_" + names[client]}
                    words["ALIAS"] = "alias_" + names[client]
                    given = [words.get(arg, arg) if type(arg) is str else arg for arg in args]
                    kind, value = await outcome(
                        lambda client=client, given=given: getattr(client, method)(*given, **kwargs)
                    )
                    found.append((kind, anonymous(value, names[client])))
                if method in OF_ITS_OWN:
                    assert found[0][0] == found[1][0]
                    assert type(found[0][1]) is type(found[1][1])
                else:
                    same(*found, method)
                return found[0]

            schema = AsyncMilvusClient.create_schema(enable_dynamic_field=True)
            schema.add_field("id", DataType.INT64, is_primary=True)
            schema.add_field("v", DataType.FLOAT_VECTOR, dim=4)
            index = AsyncMilvusClient.prepare_index_params()
            index.add_index("v", index_type="FLAT", metric_type="L2", index_name="i")
            assert (await step("has_collection", "NAME")) == ("result", False)
            assert (await step("create_collection", "NAME", schema=schema))[0] == "result"
            assert (await step("has_collection", "NAME")) == ("result", True)
            await step("create_collection", "NAME", schema=schema)
            await step("list_collections")
            await step("describe_collection", "NAME")
            await step("get_load_state", "NAME")
            await step("search", "NAME", data=[[0.0] * 4])  # not loaded
            await step("create_index", "NAME", index)
            await step("list_indexes", "NAME")
            await step("describe_index", "NAME", "i")
            await step("load_collection", "NAME")
            await step("get_load_state", "NAME")
            await step("insert", "NAME", [{"id": n, "v": [float(n)] * 4} for n in range(5)])
            await step("flush", "NAME")
            await step("get_collection_stats", "NAME")
            await step("search", "NAME", data=[[0.0] * 4], limit=3)
            for method in ("create_partition", "has_partition", "get_partition_stats"):
                await step(method, "NAME", "p")
            await step("list_partitions", "NAME")
            await step("load_partitions", "NAME", ["p"])
            await step("insert", "NAME", [{"id": 100, "v": [1.0] * 4}], partition_name="p")
            await step("query", "NAME", "id > 0", partition_names=["p"])
            await step("search", "NAME", data=[[0.0] * 4], partition_names=["p"])
            await step("delete", "NAME", ids=[100], partition_name="p")
            await step("release_partitions", "NAME", ["p"])
            await step("drop_partition", "NAME", "p")
            await step("create_alias", "NAME", "ALIAS")
            await step("list_aliases", "NAME")
            await step("describe_alias", "ALIAS")
            await step("drop_alias", "ALIAS")
            await step("alter_collection_properties", "NAME", {"collection.ttl.seconds": 60})
            await step("get_server_version")
            await step("list_databases")
            await step("list_users")
            await step("describe_replica", "NAME")
            await step("compact", "NAME")
            await step("release_collection", "NAME")
            await step("query", "NAME", "id > 0")
            await step("drop_index", "NAME", "i")
            await step("rename_collection", "NAME", "NEW")
            await step("drop_collection", "NAME")
            await step("drop_collection", "NEW")
            await step("describe_collection", "NAME")

    run(main)


def test_list_loaded_segments(fake):
    fake.on(
        "GetQuerySegmentInfo",
        lambda _: milvus_pb2.GetQuerySegmentInfoResponse(
            infos=[{"segmentID": 5, "collectionID": 6, "num_rows": 7, "nodeIds": [1, 2]}]
        ),
    )

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            found = await client.list_loaded_segments("c")
            sync = await asyncio.to_thread(_loaded_segments, fake.uri)
            assert [vars(each) for each in found] == [vars(each) for each in sync]
            assert found[0].segment_id == 5 and found[0].node_ids == [1, 2]

    run(main)


def _loaded_segments(uri):
    client = pymilvus.MilvusClient(uri)
    try:
        return client.list_loaded_segments("c")
    finally:
        client.close()


def test_a_reply_that_is_more_than_known(lite, fake):
    """Fields that this version of pymilvus does not know either are skipped, as protobuf does."""

    def answer(request):
        return search_reply(request).SerializeToString() + b"\xba\x3e\x02hi"  # field 999

    fake.on("Search", answer)

    async def main():
        async with clients(fake) as (ours, theirs):
            same(await ours.search("c", data=VECTOR), await theirs.search("c", data=VECTOR))

    run(main)


def test_schema_with_another_field_after_it_was_cached(fake):
    """The server says so: the schema is asked for again, and the rows are sent again."""
    stale = [True]

    def insert(request):
        if request.schema_timestamp == 1:
            return milvus_pb2.MutationResult(
                status={"error_code": "SchemaMismatch", "code": 7, "reason": "schema mismatch"}
            )
        return milvus_pb2.MutationResult(insert_cnt=request.num_rows, timestamp=5)

    fake.on("Insert", insert)
    fake.on("DescribeCollection", lambda _: collection(timestamp=1 if stale[0] else 2))

    async def main():
        pymilvus.client.cache.GlobalCache._reset_for_testing()
        async with AsyncMilvusClient(fake.uri) as client:
            rows = [{"id": 1, "vector": [1.0] * 4}]
            await outcome(lambda: client._handler._get_schema("c", context=None))
            stale[0] = False
            assert (await client.insert("c", rows))["insert_count"] == 1
            assert [r.schema_timestamp for r in fake.asked("Insert")] == [1, 2]
            # A row that fits the new schema only: seen before anything is sent.
            fake.on("DescribeCollection", lambda _: collection(timestamp=3, a=DataType.INT64))
            more = [{"id": 1, "vector": [1.0] * 4, "a": 7}]
            assert (await client.insert("c", more))["insert_count"] == 1
            assert fake.asked("Insert")[-1].schema_timestamp == 3
            assert len(fake.asked("Insert")[-1].fields_data) == 3

    run(main)


def test_rate_limit_is_tried_again(fake):
    left = [3]

    def answer(request):
        if left[0]:
            left[0] -= 1
            return milvus_pb2.SearchResults(status={"code": 8, "reason": "rate limit"})
        return search_reply(request)

    fake.on("Search", answer)

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            assert len(await client.search("c", data=VECTOR)) == 1
            assert fake.calls["Search"] == 4
            left[0] = 1
            with pytest.raises(pymilvus.MilvusException) as caught:
                await client.search("c", data=VECTOR, retry_on_rate_limit=False)
            assert caught.value.code == 8

    run(main)


@pytest.mark.parametrize("error", SEARCH_ERRORS.values(), ids=SEARCH_ERRORS)
def test_errors_are_pymilvuss(fake, error):
    def answer(request):
        if isinstance(error, Status):
            raise error
        return error(request)

    fake.on("Search", answer)

    async def main():
        async with clients(fake) as (ours, theirs):
            mine = await outcome(lambda: ours.search("c", data=VECTOR))
            expected = await outcome(lambda: theirs.search("c", data=VECTOR))
            if "rror parsing" in str(mine[1]):  # which grpc only logs
                mine, expected = mine[1][:2], expected[1][:2]
            same(mine, expected)
            assert fake.calls["Search"] == 2

    run(main)


def test_errors_that_are_tried_again(fake):
    def answer(request):
        raise Status(grpc.StatusCode.INTERNAL, "oh")

    fake.on("Search", answer)

    async def main():
        async with clients(fake) as (ours, theirs):
            mine = await outcome(lambda: ours.search("c", data=VECTOR, retry_times=2))
            count = fake.calls["Search"]
            expected = await outcome(lambda: theirs.search("c", data=VECTOR, retry_times=2))
            assert fake.calls["Search"] == 2 * count
            assert mine[1][:2] == expected[1][:2]
            text, other = mine[1][2], expected[1][2]
            assert text == other.split(", debug=")[0] or text == other

    run(main)


def test_dotted_names_in_the_stub_are_unary(fake):
    """A method that streams is none that pymilvus's client calls; the channel says what it is."""

    async def main():
        async with AsyncMilvusClient(fake.uri) as client:
            with pytest.raises(NotImplementedError, match="unary calls only"):
                client._handler._async_channel.stream_stream("/x/Y")()

    run(main)
