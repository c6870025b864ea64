"""What differs between the versions of the SDK, in one place.

1.x and 2.x speak httpx, 3.x speaks httpx2, which has the same classes.
"""

from __future__ import annotations

from typing import Any

import openai
from openai import _base_client as base
from openai import _constants as constants
from openai import _streaming as streaming

httpx: Any = getattr(base, "httpx", None) or base.httpx2  # type: ignore[attr-defined]

MAJOR = int(openai.__version__.partition(".")[0])

# A reply that asks for a longer pause is retried after the usual one, until 3.x, which does not
# retry it at all.
MAX_RETRY_AFTER = float(getattr(constants, "MAX_RETRY_AFTER_DELAY", 60.0))
REFUSE_LONGER = hasattr(constants, "MAX_RETRY_AFTER_DELAY")

# Since 3.x an error while a stream is read is one of the SDK's.
wraps_stream_errors = hasattr(streaming, "request_exceptions")
