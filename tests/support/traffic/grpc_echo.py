"""gRPC without generated code: `grpc_echo.py serve LABEL PORT`, and two calls by `grpc_echo.py call TARGET`."""

import sys
from concurrent import futures

import grpc


def serve(label: str, port: str) -> None:
    """Answer /demo.Echo/Say with the label and what was sent, and /demo.Echo/Count with five messages."""
    methods = {
        "Say": grpc.unary_unary_rpc_method_handler(lambda request, _: b"%s got %s" % (label.encode(), request)),
        "Count": grpc.unary_stream_rpc_method_handler(lambda _, __: (b"%d" % number for number in range(5))),
    }
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("demo.Echo", methods)])
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    server.wait_for_termination()


def call(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        words = channel.unary_unary("/demo.Echo/Say")(b"hello", timeout=5)
        counted = b"".join(channel.unary_stream("/demo.Echo/Count")(b"", timeout=5))
    print(f"{words.decode()}, {counted.decode()}")  # noqa: T201  # a program


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:])
    else:
        call(*sys.argv[2:])
