"""An image service of grpcio on the socket that the first argument names. It writes a line for each call."""

import sys
from concurrent import futures

import grpc


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value


def image(name, size):
    return field(1, name) + field(2, "r.io/app:1") + field(4, size)


def version(request, context):
    return field(1, "0.1.0") + field(2, "grpcio") + field(3, grpc.__version__) + field(4, "v1")


def image_status(request, context):
    if b"absent" in request:
        context.abort(grpc.StatusCode.NOT_FOUND, "no such image")
    if b"refused" in request:
        context.abort(grpc.StatusCode.UNKNOWN, "failed to authorize: 403 Forbidden \N{EURO SIGN} %")
    if b"broken" in request:
        raise RuntimeError("as the test says")
    return field(1, image("sha256:id", 42))


def list_images(request, context):
    name = "sha256:" + "0" * 500
    return b"".join(field(1, image(f"{name}{n}", n)) for n in range(10_000))


def pull_image(request, context):
    if b"slow" in request:
        done = futures.Future()
        context.add_callback(lambda: done.set_result(None))
        print(f"slow, {context.time_remaining()}", flush=True)
        done.result()
        print("slow ended", flush=True)
    return field(1, f"sha256:{len(request)}")


METHODS = {
    "/runtime.v1.RuntimeService/Version": version,
    "/runtime.v1.ImageService/ImageStatus": image_status,
    "/runtime.v1.ImageService/ListImages": list_images,
    "/runtime.v1.ImageService/PullImage": pull_image,
}


class Methods(grpc.GenericRpcHandler):
    def service(self, details):
        method = METHODS.get(details.method)
        return method and grpc.unary_unary_rpc_method_handler(method)


server = grpc.server(
    futures.ThreadPoolExecutor(64),
    handlers=[Methods()],
    options=[("grpc.max_send_message_length", 64 << 20)],
)
server.add_insecure_port(f"unix:{sys.argv[1]}")
server.start()
print("ready", flush=True)
server.wait_for_termination()
