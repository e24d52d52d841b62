"""A gRPC server without generated code: messages are bytes. Arguments: address and port."""

import sys
import time
from concurrent import futures

import grpc


def unary(request, context):
    nonce = dict(context.invocation_metadata()).get("x-nonce", "")
    context.send_initial_metadata((("x-nonce", nonce),))
    context.set_trailing_metadata((("x-length", str(len(request))),))
    return request


def fail(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not like this: 50% gr\u00fcn")


def slow(request, context):
    time.sleep(30)
    return request


def count(request, context):
    for number in range(int(request)):
        yield b"%d" % number


def add(requests, context):
    return b"%d" % sum(len(one) for one in requests)


def chat(requests, context):
    for one in requests:
        yield one


class Demo(grpc.GenericRpcHandler):
    def service(self, details):
        return {
            "/demo.Echo/Unary": grpc.unary_unary_rpc_method_handler(unary),
            "/demo.Echo/Fail": grpc.unary_unary_rpc_method_handler(fail),
            "/demo.Echo/Slow": grpc.unary_unary_rpc_method_handler(slow),
            "/demo.Echo/Count": grpc.unary_stream_rpc_method_handler(count),
            "/demo.Echo/Add": grpc.stream_unary_rpc_method_handler(add),
            "/demo.Echo/Chat": grpc.stream_stream_rpc_method_handler(chat),
            # The answer is grpc.health.v1.HealthCheckResponse{status: SERVING}.
            "/grpc.health.v1.Health/Check": grpc.unary_unary_rpc_method_handler(lambda request, context: b"\x08\x01"),
        }.get(details.method)


limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), options=limits)
server.add_generic_rpc_handlers((Demo(),))
server.add_insecure_port(f"{sys.argv[1]}:{sys.argv[2]}")
server.start()
print("listening", flush=True)
server.wait_for_termination()
