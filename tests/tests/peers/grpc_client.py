"""Calls of every kind; says in JSON what came back. Argument: where to."""

import json
import queue
import sys

import grpc

limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
channel = grpc.insecure_channel(sys.argv[1], options=limits)
said = {}


def failure(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return ["OK", ""]


unary = channel.unary_unary("/demo.Echo/Unary")
answer, call = unary.with_call(b"abc", metadata=(("x-nonce", "n-1"),), timeout=20)
said["unary"] = answer.decode()
said["initial"] = dict(call.initial_metadata()).get("x-nonce")
said["trailing"] = dict(call.trailing_metadata()).get("x-length")
large = bytes(range(256)) * (16 << 10)
said["large"] = unary(large, timeout=60) == large
said["empty"] = unary(b"", timeout=20) == b""
said["fail"] = failure(channel.unary_unary("/demo.Echo/Fail"), b"", timeout=20)
said["unknown"] = failure(channel.unary_unary("/demo.Echo/Nothing"), b"", timeout=20)[0]
said["deadline"] = failure(channel.unary_unary("/demo.Echo/Slow"), b"", timeout=0.3)[0]
numbers = channel.unary_stream("/demo.Echo/Count")(b"1000", timeout=20)
said["count"] = sum(int(one) for one in numbers)
said["add"] = int(channel.stream_unary("/demo.Echo/Add")((b"x" * 100 for _ in range(100)), timeout=20))
said["health"] = list(channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20))

# One message at a time: each comes back before the next is sent.
messages = queue.Queue()
answers = channel.stream_stream("/demo.Echo/Chat")(iter(messages.get, None), timeout=20)
said["chat"] = []
for text in ["one", "two", "three"]:
    messages.put(text.encode())
    said["chat"].append(next(answers).decode())
messages.put(None)
said["ended"] = next(answers, None) is None
print(json.dumps(said))
