"""AsyncMilvusClient: pymilvus's client on the native engine."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pymilvus

from arshai_native._milvus_uri import hide

from . import _hybrid, _query, _rows, _search
from ._connection import AnyLoopLock, NativeConnectionManager, QuietConfig
from ._iterators import IteratorMethods
from ._sdk import PEER, Plain
from ._template import Plans


class AsyncMilvusClient(IteratorMethods, pymilvus.AsyncMilvusClient):
    """
    pymilvus.AsyncMilvusClient on the native engine: the same constructor, methods, results and
    errors, and what the asynchronous client lacks: search_iterator, query_iterator,
    list_loaded_segments.

    One client serves any number of event loops and threads; its connection belongs to none of
    them. gather (True): whether searches that are alike but for their vectors, and gets of a few
    keys, travel as one request when they wait at the same moment.
    """

    if not TYPE_CHECKING:  # type checkers see pymilvus's methods

        @functools.wraps(pymilvus.AsyncMilvusClient.__init__)
        def __init__(self, *args: Any, gather: bool = True, **kwargs: Any) -> None:
            try:
                super().__init__(*args, **kwargs)
            except Exception as error:
                hide(error, args[0] if args else kwargs.get("uri"))
                raise
            self._config = QuietConfig(**vars(self._config))
            self._gather = bool(gather)
            self._plans = Plans()
            self._schemas = Plans()
            self._connecting = AnyLoopLock()
            self._plain = Plain()
            self._caller = _search.caller()

        async def _connect(self) -> None:
            async with self._connecting:
                if self._handler is not None:
                    return
                self._manager = NativeConnectionManager.get_instance()
                self._handler = await self._manager.get_or_create(
                    self._config,
                    dedicated=self._dedicated,
                    client=self,
                    timeout=self._timeout,
                )
                self._using = f"cm-async-{id(self._handler)}"
                self.is_self_hosted = self._handler.get_server_type() == "milvus"

        @functools.wraps(pymilvus.AsyncMilvusClient.search)
        async def search(
            self,
            collection_name,
            data=None,
            filter="",
            limit=10,
            output_fields=None,
            search_params=None,
            timeout=None,
            partition_names=None,
            anns_field=None,
            ranker=None,
            *args,  # what follows differs between versions
            **kwargs,
        ):
            options = {
                "filter": filter,
                "limit": limit,
                "output_fields": output_fields,
                "search_params": search_params,
                "partition_names": partition_names,
                "anns_field": anns_field,
            }
            if ranker is None and not args and "ids" not in kwargs:
                request = self._caller and self._caller.search(
                    self, data, timeout, collection_name, filter, limit, output_fields,
                    search_params, partition_names, anns_field, kwargs,
                )  # fmt: skip
                if request:
                    result = await _search.started(
                        self, request, collection_name, data, options, timeout, kwargs
                    )
                else:
                    result = await _search.search(
                        self, collection_name, data, options, timeout, kwargs
                    )
                if result is not PEER:
                    return result
            return await super().search(
                collection_name,
                data,
                filter,
                limit,
                output_fields,
                search_params,
                timeout,
                partition_names,
                anns_field,
                ranker,
                *args,
                **kwargs,
            )

        @functools.wraps(pymilvus.AsyncMilvusClient.hybrid_search)
        async def hybrid_search(
            self,
            collection_name,
            reqs,
            ranker,
            limit=10,
            output_fields=None,
            timeout=None,
            partition_names=None,
            **kwargs,
        ):
            result = await _hybrid.hybrid_search(
                self,
                collection_name,
                reqs,
                ranker,
                {
                    "limit": limit,
                    "output_fields": output_fields,
                    "partition_names": partition_names,
                },
                timeout,
                kwargs,
            )
            if result is not PEER:
                return result
            return await super().hybrid_search(
                collection_name,
                reqs,
                ranker,
                limit=limit,
                output_fields=output_fields,
                timeout=timeout,
                partition_names=partition_names,
                **kwargs,
            )

        @functools.wraps(pymilvus.AsyncMilvusClient.query)
        async def query(
            self,
            collection_name,
            filter="",
            output_fields=None,
            timeout=None,
            ids=None,
            partition_names=None,
            **kwargs,
        ):
            options = {"output_fields": output_fields, "partition_names": partition_names}
            keys = [ids] if type(ids) in (int, str) else ids
            result = await _query.query(
                self, "query", collection_name, filter, keys, options, timeout, kwargs
            )
            if result is not PEER:
                return result
            return await super().query(
                collection_name, filter, timeout=timeout, ids=ids, **options, **kwargs
            )

        @functools.wraps(pymilvus.AsyncMilvusClient.get)
        async def get(
            self,
            collection_name,
            ids,
            output_fields=None,
            timeout=None,
            partition_names=None,
            **kwargs,
        ):
            options = {"output_fields": output_fields, "partition_names": partition_names}
            keys = [ids] if type(ids) in (int, str) else ids
            if keys:
                result = await _query.query(
                    self, "get", collection_name, "", keys, options, timeout, kwargs
                )
                if result is not PEER:
                    return result
            return await super().get(collection_name, ids, timeout=timeout, **options, **kwargs)

        @functools.wraps(pymilvus.AsyncMilvusClient.insert)
        async def insert(self, collection_name, data, timeout=None, partition_name="", **kwargs):
            return await self._write(
                _rows.INSERT_KIND, super().insert, collection_name, data, timeout,
                partition_name, kwargs,
            )  # fmt: skip

        @functools.wraps(pymilvus.AsyncMilvusClient.upsert)
        async def upsert(self, collection_name, data, timeout=None, partition_name="", **kwargs):
            return await self._write(
                _rows.UPSERT_KIND, super().upsert, collection_name, data, timeout,
                partition_name, kwargs,
            )  # fmt: skip

        async def _write(self, kind, peer, collection_name, data, timeout, partition_name, kwargs):
            rows = [data] if type(data) is dict else data
            if type(rows) is list and rows:
                result = await _rows.write(
                    kind, self, collection_name, rows, partition_name, timeout, kwargs
                )
                if result is not PEER:
                    return result
            return await peer(
                collection_name, data, timeout=timeout, partition_name=partition_name, **kwargs
            )

        @functools.wraps(pymilvus.AsyncMilvusClient.delete)
        async def delete(
            self,
            collection_name,
            ids=None,
            timeout=None,
            filter=None,
            partition_name=None,
            **kwargs,
        ):
            result = await _query.delete(
                self, collection_name, ids, filter, partition_name, timeout, kwargs
            )
            if result is not PEER:
                return result
            return await super().delete(
                collection_name,
                ids,
                timeout=timeout,
                filter=filter,
                partition_name=partition_name,
                **kwargs,
            )

    async def insert_columns(
        self,
        collection_name: str,
        columns: dict[str, Any],
        timeout: float | None = None,
        partition_name: str | None = "",
        **kwargs: Any,
    ) -> dict[str, Any]:
        """
        insert() of whole columns: {field: its values}, of one length each. Vectors as a numpy
        matrix, a list of vectors or a csr matrix, the others as lists or numpy arrays.
        """
        return await self._write_columns(
            _rows.INSERT_KIND,
            self.insert,
            collection_name,
            columns,
            timeout,
            partition_name,
            kwargs,
        )

    async def upsert_columns(
        self,
        collection_name: str,
        columns: dict[str, Any],
        timeout: float | None = None,
        partition_name: str | None = "",
        **kwargs: Any,
    ) -> dict[str, Any]:
        """upsert() of whole columns, as insert_columns()."""
        return await self._write_columns(
            _rows.UPSERT_KIND,
            self.upsert,
            collection_name,
            columns,
            timeout,
            partition_name,
            kwargs,
        )

    async def _write_columns(
        self,
        kind: Any,
        by_row: Any,
        collection_name: str,
        columns: dict[str, Any],
        timeout: float | None,
        partition_name: str | None,
        kwargs: dict[str, Any],
    ) -> dict[str, Any]:
        result = await _rows.write(
            kind, self, collection_name, columns, partition_name, timeout, kwargs, by_column=True
        )
        if result is PEER:
            result = await by_row(
                collection_name,
                _rows.rows_of(columns),
                timeout=timeout,
                partition_name=partition_name,
                **kwargs,
            )
        written: dict[str, Any] = result
        return written
