"""What the HTTP engine asks of Python: the environment, and URLs beyond ASCII.

Read once, when a client is made, in the thread that makes it: the io thread must not look at the
environment while Python changes it.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

# Where Debian's libcurl looks for certificates by itself.
_SYSTEM_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def _variable(name: str) -> str | None:
    """The lower-case variable wins, as everywhere. HTTP_PROXY is not trusted in a CGI program,
    where it may be a header of the request."""
    value = os.environ.get(name.lower())
    if value is None and not (name == "HTTP_PROXY" and "REQUEST_METHOD" in os.environ):
        value = os.environ.get(name)
    return value or None


def _certificates(verify: Any, trust_env: bool) -> dict[str, str | None]:
    if isinstance(verify, (str, os.PathLike)):
        path = os.fspath(verify)
        if not os.path.exists(path):
            raise FileNotFoundError(f"verify: there is no file or directory {path!r}")
        return {"ca_dir" if os.path.isdir(path) else "ca_file": path}
    if not isinstance(verify, bool):
        raise TypeError(
            "verify must be True, False or the path of CA certificates, "
            f"not {type(verify).__name__}"
        )
    if not verify:
        return {}
    found: dict[str, str | None] = {}
    if trust_env:
        file, directory = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
        if file:
            found["ca_file"] = file
        if directory:
            found["ca_dir"] = directory
    if not found and not os.path.exists(_SYSTEM_CERTIFICATES):
        try:
            import certifi
        except ImportError:
            return found  # libcurl's own places
        found["ca_file"] = certifi.where()
    return found


def _client_certificate(cert: Any) -> dict[str, str | None]:
    if cert is None:
        return {}
    if isinstance(cert, (str, os.PathLike)):
        return {"cert_file": os.fspath(cert)}
    if isinstance(cert, tuple) and 2 <= len(cert) <= 3 and cert[0] is not None:
        return dict(zip(("cert_file", "key_file", "key_password"), cert, strict=False))
    raise TypeError("cert must be a path or a tuple (certificate, key, password)")


def client_options(verify: Any, cert: Any, proxy: str | None, trust_env: bool) -> dict[str, Any]:
    """The strings of the engine's configuration that arguments and environment give together."""
    options: dict[str, Any] = {
        "verify": verify is not False,
        **_certificates(verify, bool(trust_env)),
        **_client_certificate(cert),
    }
    if proxy is not None:
        if not isinstance(proxy, str):
            raise TypeError(f"proxy must be a str or None, not {type(proxy).__name__}")
        options["proxy_http"] = options["proxy_https"] = proxy
    elif trust_env:
        everything = _variable("ALL_PROXY")
        options["proxy_http"] = _variable("HTTP_PROXY") or everything
        options["proxy_https"] = _variable("HTTPS_PROXY") or everything
        options["no_proxy"] = _variable("NO_PROXY")
    return options


def ascii_url(url: str) -> str:
    """The URL with its host in IDNA and everything else percent-encoded."""
    # urlsplit() would leave out some of them without a word
    if any(c < " " or c == "\x7f" for c in url):
        raise ValueError("url has a control character")
    parts = urlsplit(url)
    credentials, at, host = parts.netloc.rpartition("@")
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not colon:
        name, port = host, ""
    try:
        name = name.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ValueError(f"url has an invalid host name: {error}") from None
    # What is encoded already stays.
    safe = "%/:=&?~#+!$,;'@()*[]"
    return urlunsplit(
        (
            parts.scheme,
            quote(credentials, safe=safe) + at + name + colon + port,
            quote(parts.path, safe=safe),
            quote(parts.query, safe=safe),
            quote(parts.fragment, safe=safe),
        )
    )
