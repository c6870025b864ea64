"""Documents whose vectors are whole blocks: inserted as what their rows would be."""

import numpy as np
import pytest
from milvusfake import FakeMilvus, collection
from pymilvus import DataType
from pymilvus.grpc_gen import milvus_pb2
from scipy import sparse
from vectordbkit import DIMENSION, config_of, documents, vectors

from arshai_native.vector_db import AsyncMilvus, _entities

pytest_plugins = ("milvusfixtures",)
pytestmark = pytest.mark.usefixtures("milvus_environment")

BLOCK = np.array(vectors(120), "f4")
CSR = sparse.random(120, 1000, 0.01, "csr", "f4", 5)
AS_COLUMNS = {
    "lists": (BLOCK.tolist(), [dict(zip(each.indices.tolist(), each.data.tolist(), strict=True))
                               for each in CSR]),
    "float32": (BLOCK, CSR),
    "float64": (BLOCK.astype("f8"), CSR.astype("f8")),
    "of another order": (np.asfortranarray(BLOCK), CSR.tocsc().tocsr()),
    "more than documents": (np.vstack([BLOCK, BLOCK]), sparse.vstack([CSR, CSR], "csr")),
    "lists of arrays": (list(BLOCK), list(CSR)),
}  # fmt: skip
NOT_AS_COLUMNS = {
    "tuples": (tuple(BLOCK.tolist()), tuple(CSR)),
    "too few": (BLOCK[:119], CSR),
    "too few rows": (BLOCK, CSR[:119]),
    "one too short": ([*BLOCK.tolist()[:119], [0.5]], CSR),
    "of another dimension": (BLOCK[:, :4], CSR),
    "float16": (BLOCK.astype("f2"), CSR),
    "objects": (BLOCK.astype(object), CSR),
    "of one dimension": (BLOCK[:, 0], CSR),
    "infinite": (np.full_like(BLOCK, 1e39, "f8"), CSR),
    "a csr_array": (BLOCK, sparse.csr_array(CSR)),
    "another matrix": (BLOCK, CSR.tocsc()),
    "no vectors": (None, None),
}


LOADED = milvus_pb2.GetLoadingProgressResponse(progress=100)


class Rows:
    """Vectors that are to be had one by one only."""

    def __init__(self, vectors):
        self._vectors = vectors

    def __getitem__(self, index):
        return self._vectors[index]

    @classmethod
    def of(cls, vectors):
        return None if vectors is None else cls(vectors)


def outcome(call):
    try:
        return call()
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("form", AS_COLUMNS | NOT_AS_COLUMNS)
def test_blocks_are_inserted_as_their_rows(form, monkeypatch):
    """The same requests, or the same error, as of a vector in each row; but not by rows, if it can
    be."""
    dense, rows = (AS_COLUMNS | NOT_AS_COLUMNS)[form]
    by_rows = []
    make_rows = _entities.Documents.rows
    monkeypatch.setattr(
        _entities.Documents, "rows",
        lambda self, *part: by_rows.append(part) or make_rows(self, *part),
    )  # fmt: skip

    class Model:
        pages: int

    config = config_of("c", pk_field="id", dense_field="vector", is_hybrid=True,
                       schema_model=Model)  # fmt: skip
    data = [each | {"pages": i} for i, each in enumerate(documents(120))]
    kinds = {
        "text": DataType.VARCHAR, "metadata": DataType.JSON, "pages": DataType.INT64,
        "sparse_vector": DataType.SPARSE_FLOAT_VECTOR,
    }  # fmt: skip

    described = collection(DIMENSION, 1, **kinds)
    described.schema.fields[0].autoID = True

    def insert(fake, embedding):
        fake.on("DescribeCollection", lambda _: described)
        fake.on("LoadCollection", lambda _: b"")
        fake.on("GetLoadingProgress", lambda _: LOADED)
        with AsyncMilvus(fake.uri, flush=False) as client:
            raised = outcome(lambda: client.insert_entities(config, data, embedding))
        return raised, fake.asked("Insert")

    found = []
    for one, other in ((dense, rows), (Rows.of(dense), Rows.of(rows))):
        by_rows.clear()
        with FakeMilvus() as fake:
            found.append(insert(fake, {"dense": one, "sparse": other}))
            if form in AS_COLUMNS:
                assert len(by_rows) == (1 if one is dense else 4)
    assert found[0] == found[1]
    assert form not in AS_COLUMNS or (found[0][0], len(found[0][1])) == (None, 3)


def test_what_was_inserted_as_blocks(lite):
    block = np.array(vectors(30), "f4")
    config = config_of()
    with AsyncMilvus(lite.uri, batch_size=20) as client:
        client.insert_entities(config, documents(30), {"dense": block})
        fields = ["text", "metadata", "dense_vector"]
        rows = client.query_by_expr(config, "text != ''", fields, "Strong")
        found = {row["text"]: (row["metadata"], list(row["dense_vector"])) for row in rows}
    expected = {each["content"]: each["metadata"] for each in documents(30)}
    assert found == {
        text: (metadata, list(vector))
        for (text, metadata), vector in zip(expected.items(), block.tolist(), strict=True)
    }
