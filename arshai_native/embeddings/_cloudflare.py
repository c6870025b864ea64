"""AsyncCloudflareGatewayEmbedding: arshai's CloudflareGatewayEmbedding on the native engine."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from arshai_native._api_client import DEFAULT, Settings
from arshai_native.embeddings._base import ApiEmbedding
from arshai_native.embeddings._openai import openai_tail

logger = logging.getLogger("arshai_native.embeddings")

DEFAULT_BATCH = 32
DEFAULT_TIMEOUT = 60.0
DEFAULT_RETRIES = 3

# Path of a provider's API behind the gateway's; others: /{provider}/v1.
_PATHS = {
    "openai": "/openai/v1",
    "azure": "/azure-openai/{resource}/{deployment}",
    "bedrock": "/aws-bedrock/bedrock-runtime/{region}",
}

DIMENSIONS = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
    "embed-english-v3.0": 1024,
    "embed-multilingual-v3.0": 1024,
    "embed-english-light-v3.0": 384,
    "embed-multilingual-light-v3.0": 384,
    "amazon.titan-embed-text-v1": 1536,
    "amazon.titan-embed-text-v2": 1024,
    "bge-base-en-v1.5": 768,
    "bge-large-en-v1.5": 1024,
    "bge-small-en-v1.5": 384,
}

# Providers from which arshai's class lets the SDK ask for base64.
_BASE64 = ("bedrock", "cohere")


class AsyncCloudflareGatewayEmbedding(ApiEmbedding):
    """
    Embeddings of many providers through Cloudflare's AI Gateway, which holds their keys.

    The methods of arshai's CloudflareGatewayEmbedding with awaitable twins of each.

    config: arshai's CloudflareGatewayEmbeddingConfig, or a dict of its fields, or keyword
        arguments: account_id, gateway_id, provider, model_name, gateway_token (default
        CLOUDFLARE_GATEWAY_TOKEN; ValueError without one), azure_resource, azure_deployment,
        bedrock_region, batch_size (32), timeout (60), max_retries (3), dimensions.
    base_url: in place of https://gateway.ai.cloudflare.com/v1/{account_id}/{gateway_id}.
    as_numpy, gather, gather_wait, max_concurrency, default_headers and the options of the engine's
        HttpClient: as AsyncOpenAIEmbedding's. Bedrock takes one text a request.

    Errors are openai's exceptions, as arshai's class raises them.
    Source of the behaviour: arshai 1.15.0, embeddings/cloudflare_gateway_embedding.py.
    """

    def __init__(
        self,
        config: Any = None,
        *,
        account_id: str | None = None,
        gateway_id: str | None = None,
        provider: str | None = None,
        model_name: str | None = None,
        gateway_token: str | None = None,
        azure_resource: str | None = None,
        azure_deployment: str | None = None,
        bedrock_region: str | None = None,
        batch_size: int | None = None,
        dimensions: int | None = None,
        base_url: str | None = None,
        as_numpy: bool | None = None,
        gather: bool | None = None,
        gather_wait: float | None = None,
        max_concurrency: int | None = None,
        timeout: Any = DEFAULT,
        max_retries: int | None = None,
        default_headers: dict[str, str] | None = None,
        **http: Any,
    ) -> None:
        settings = Settings(config, {
            "account_id": account_id, "gateway_id": gateway_id, "provider": provider,
            "model_name": model_name, "gateway_token": gateway_token,
            "azure_resource": azure_resource, "azure_deployment": azure_deployment,
            "bedrock_region": bedrock_region, "batch_size": batch_size, "dimensions": dimensions,
            "as_numpy": as_numpy, "gather": gather, "gather_wait": gather_wait,
            "max_concurrency": max_concurrency, "max_retries": max_retries,
            "default_headers": default_headers,
        })  # fmt: skip
        self.provider = settings.get("provider")
        self.model_name = settings.model
        if not self.provider or not self.model_name:
            raise ValueError("provider and model_name are required")
        token = settings.get("gateway_token") or os.environ.get("CLOUDFLARE_GATEWAY_TOKEN")
        if not token:
            raise ValueError(
                "Gateway token is required for Cloudflare AI Gateway (BYOK mode). "
                "Set gateway_token in config or CLOUDFLARE_GATEWAY_TOKEN environment variable."
            )
        self._dimension = self._find_dimension(settings)
        alone = self.provider == "bedrock"
        self._set_up(settings, 1 if alone else settings.get("batch_size", DEFAULT_BATCH))
        self._connect(
            settings,
            (base_url or self._gateway(settings)).rstrip("/") + self._path(settings),
            token,
            headers={
                "HTTP-Referer": "https://github.com/ArshaAI/arshai",
                "X-Title": "Arshai Framework",
            },
            timeout=timeout,
            default_timeout=DEFAULT_TIMEOUT,
            max_retries=DEFAULT_RETRIES,
            http=http,
        )
        base64 = self._as_numpy or self.provider in _BASE64
        self._tail = openai_tail(self.model_name, None, "base64" if base64 else "float")
        logger.info("Initialized %r", self)

    @staticmethod
    def _gateway(settings: Settings) -> str:
        account, gateway = settings.get("account_id"), settings.get("gateway_id")
        if not account or not gateway:
            raise ValueError("account_id and gateway_id are required")
        return f"https://gateway.ai.cloudflare.com/v1/{account}/{gateway}"

    def _path(self, settings: Settings) -> str:
        resource = settings.get("azure_resource")
        deployment = settings.get("azure_deployment")
        if self.provider == "azure" and not (resource and deployment):
            raise ValueError("azure_resource and azure_deployment are required for Azure provider")
        return _PATHS.get(self.provider, f"/{self.provider}/v1").format(
            resource=resource,
            deployment=deployment,
            region=settings.get("bedrock_region", "us-east-1"),
        )

    def _find_dimension(self, settings: Settings) -> int:
        model = self.model_name
        known = DIMENSIONS.get(model) or DIMENSIONS.get(model.rpartition("/")[2])
        dimension: int | None = settings.get("dimensions") or known
        if dimension is None:
            logger.warning(
                "Unknown model '%s', using default dimension 1536. "
                "Consider setting 'dimensions' in config for accuracy.",
                model,
            )
        return dimension or 1536

    @property
    def dimension(self) -> int:
        return self._dimension

    # ---- health, end ----

    def _status(self) -> dict[str, Any]:
        return {
            "initialized": True,
            "provider": self.provider,
            "model": self.model_name,
            "dimension": self._dimension,
            "healthy": False,
        }

    def health_check(self) -> dict[str, Any]:
        """initialized, provider, model, dimension, healthy; latency_ms, or error. Never raises."""
        status = self._status()
        start = time.perf_counter()
        try:
            self._send_sync([self._prepare("health check")])
            status.update(healthy=True, latency_ms=(time.perf_counter() - start) * 1000)
        except Exception as error:
            status["error"] = str(error)
        return status

    async def health_check_async(self) -> dict[str, Any]:
        """health_check(), awaitable."""
        status = self._status()
        start = time.perf_counter()
        try:
            await self._send([self._prepare("health check")])
            status.update(healthy=True, latency_ms=(time.perf_counter() - start) * 1000)
        except Exception as error:
            status["error"] = str(error)
        return status

    def close(self) -> None:
        """close_sync() by arshai's name."""
        self.close_sync()
