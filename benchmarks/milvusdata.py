"""What the Milvus benchmarks share: a server with collections, recorded replies, the summary."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from grpckit import framed  # noqa: E402
from milvusservers import STANDALONE, MilvusStandalone  # noqa: E402

DIMENSION = 768
VECTORS = 10_000
LIMIT = 10
COLLECTION, ARSHAI = "bench", "arshai"
INSERTED = 1000  # rows of one insert
PREFIX = "/milvus.proto.milvus.MilvusService/"
TEXT = "The user prefers short answers and lives in Lisbon. "


def standalone() -> MilvusStandalone | None:
    """The whole Milvus server, None if it is not installed."""
    if not (STANDALONE / "bin" / "milvus-server").exists():
        print("\nthe Milvus server is not installed: make build/.milvus-standalone says why")
        return None
    return MilvusStandalone()


def block(count: int, seed: int) -> Any:
    import numpy

    found = numpy.random.default_rng(seed).standard_normal((count, DIMENSION), numpy.float32)
    return found / numpy.linalg.norm(found, axis=1, keepdims=True)


def fill(uri: str) -> None:
    """Two collections of 10,000 vectors: an HNSW index and one more field; arshai's schema."""
    import pymilvus

    from arshai_native.vector_db import AsyncMilvus, CollectionConfig

    client = pymilvus.MilvusClient(uri)
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", pymilvus.DataType.INT64, is_primary=True)
    schema.add_field("vector", pymilvus.DataType.FLOAT_VECTOR, dim=DIMENSION)
    schema.add_field("text", pymilvus.DataType.VARCHAR, max_length=1000)
    client.create_collection(COLLECTION, schema=schema)
    vectors = block(VECTORS, 1)
    texts = [f"{TEXT}{number}" for number in range(VECTORS)]
    for start in range(0, VECTORS, 1000):
        end = start + 1000
        client.insert(COLLECTION, [
            {"id": number, "vector": vectors[number], "text": texts[number]}
            for number in range(start, end)
        ])  # fmt: skip
    client.flush(COLLECTION)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="HNSW", metric_type="IP",
                    params={"M": 16, "efConstruction": 200})  # fmt: skip
    client.create_index(COLLECTION, index)
    client.load_collection(COLLECTION)
    client.close()

    with AsyncMilvus(uri, batch_size=1000) as wrapper:
        config = arshai_config(CollectionConfig)
        documents = [{"content": text, "metadata": {}} for text in texts]
        wrapper.insert_entities(config, documents, {"dense": vectors})
        wrapper.search_by_vector(config, vectors[:1].tolist())


def arshai_config(kind: Any) -> Any:
    return kind(collection_name=ARSHAI, dense_dim=DIMENSION, text_field="text")


def null_replies() -> dict[str, bytes]:
    """Path -> the reply to every call, for a server that only sends it."""
    from pymilvus.client.types import DataType
    from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

    found = milvus_pb2.SearchResults(
        results=schema_pb2.SearchResultData(
            num_queries=1, top_k=LIMIT, topks=[LIMIT], primary_field_name="id",
            ids={"int_id": {"data": [7 * number for number in range(LIMIT)]}},
            scores=[0.9 - number / 100 for number in range(LIMIT)],
            output_fields=["text"],
            fields_data=[schema_pb2.FieldData(
                type=DataType.VARCHAR.value, field_name="text", field_id=102,
                scalars={"string_data": {"data": [f"{TEXT}{n}" for n in range(LIMIT)]}},
            )],
        ),
    )  # fmt: skip
    described = milvus_pb2.DescribeCollectionResponse(
        schema=schema_pb2.CollectionSchema(name=COLLECTION, fields=[
            schema_pb2.FieldSchema(
                fieldID=100, name="id", is_primary_key=True, data_type=DataType.INT64.value
            ),
            schema_pb2.FieldSchema(
                fieldID=101, name="vector", data_type=DataType.FLOAT_VECTOR.value,
                type_params=[common_pb2.KeyValuePair(key="dim", value=str(DIMENSION))],
            ),
            schema_pb2.FieldSchema(
                fieldID=102, name="text", data_type=DataType.VARCHAR.value,
                type_params=[common_pb2.KeyValuePair(key="max_length", value="1000")],
            ),
        ]),
    )  # fmt: skip
    inserted = milvus_pb2.MutationResult(
        IDs={"int_id": {"data": range(INSERTED)}}, insert_cnt=INSERTED, timestamp=1
    )
    replies = {
        "Search": found, "DescribeCollection": described, "Insert": inserted,
        "Connect": milvus_pb2.ConnectResponse(identifier=1),
    }  # fmt: skip
    return {PREFIX + name: framed(message.SerializeToString()) for name, message in replies.items()}
