"""A real gRPC server (grpcio) for the tests, in a process of its own: tests stop, freeze and
restart it. Its methods need no .proto: bytes go in and come out.

python grpc_server.py PORT [cert key [client_ca]] prints "ready" when it serves.
"""

from __future__ import annotations

import sys
import time
from concurrent import futures
from pathlib import Path

import grpc


def echo(message: bytes, context: grpc.ServicerContext) -> bytes:
    return message


def sleep(message: bytes, context: grpc.ServicerContext) -> bytes:
    time.sleep(float(message))
    return message


def size(message: bytes, context: grpc.ServicerContext) -> bytes:
    """So many bytes."""
    return bytes(range(256)) * (int(message) // 256) + bytes(range(int(message) % 256))


def headers(message: bytes, context: grpc.ServicerContext) -> bytes:
    pairs = sorted((m.key, m.value) for m in context.invocation_metadata())
    return repr((pairs, context.time_remaining())).encode()


def error(message: bytes, context: grpc.ServicerContext) -> bytes:
    code, _, details = message.decode().partition(" ")
    context.set_trailing_metadata((("reason", "because"), ("more-bin", b"\x00\xff\n")))
    context.abort(grpc.StatusCode[code], details)
    raise AssertionError


def crash(message: bytes, context: grpc.ServicerContext) -> bytes:
    raise ValueError(message.decode())


METHODS = {f"/test.Echo/{f.__name__}": f for f in (echo, sleep, size, headers, error, crash)}


class Handler(grpc.GenericRpcHandler):
    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = METHODS.get(call.method)
        return method and grpc.unary_unary_rpc_method_handler(method)


def serve(address: str, files: list[str]) -> None:
    server = grpc.server(
        futures.ThreadPoolExecutor(64),
        handlers=[Handler()],
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
    )
    if files:
        cert, key, *ca = [Path(path).read_bytes() for path in files]
        credentials = grpc.ssl_server_credentials(
            [(key, cert)], root_certificates=ca[0] if ca else None, require_client_auth=bool(ca)
        )
        server.add_secure_port(address, credentials)
    else:
        server.add_insecure_port(address)
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
