"""AsyncAzureSpeech: the same on Azure OpenAI."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote, urlencode

from arshai_native._api_client import MAX_RETRIES, ApiClient, Settings
from arshai_native._api_errors import OpenAIErrors
from arshai_native.speech._openai import AsyncOpenAISpeech


class AsyncAzureSpeech(AsyncOpenAISpeech):
    """
    AsyncOpenAISpeech on Azure OpenAI, as arshai 1.5.4's AzureSpeechClient.

    api_key: default AZURE_OPENAI_API_KEY; base_url (the endpoint): default AZURE_OPENAI_ENDPOINT;
    ValueError without either. AZURE_OPENAI_API_VERSION (2024-02-15) as there;
    AZURE_OPENAI_DEPLOYMENT_NAME is the deployment of both directions, else the models name them.
    """

    def _make_client(self, settings: Settings, timeout: Any, http: dict[str, Any]) -> ApiClient:
        key = settings.get("api_key") or os.environ.get("AZURE_OPENAI_API_KEY")
        if not key:
            raise ValueError(
                "Azure OpenAI API key not found. Please set AZURE_OPENAI_API_KEY environment "
                "variable."
            )
        endpoint = settings.get("base_url") or os.environ.get("AZURE_OPENAI_ENDPOINT")
        if not endpoint:
            raise ValueError(
                "Azure OpenAI endpoint not found. Please set AZURE_OPENAI_ENDPOINT environment "
                "variable."
            )
        deployment = os.environ.get("AZURE_OPENAI_DEPLOYMENT_NAME")
        if deployment:
            self.stt_model = self.tts_model = deployment
        self._version = os.environ.get("AZURE_OPENAI_API_VERSION", "2024-02-15")
        return ApiClient(
            endpoint.rstrip("/") + "/openai",
            api_key=key,
            errors=OpenAIErrors,
            headers=settings.get("default_headers"),
            timeout=timeout,
            max_retries=settings.get("max_retries", MAX_RETRIES),
            http=http,
            key_header=("api-key", ""),
        )

    def _path(self, end: str, model: str) -> str:
        query = urlencode({"api-version": self._version})
        return f"/deployments/{quote(model, safe='')}/audio/{end}?{query}"
