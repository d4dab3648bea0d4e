"""An image service of python-h2 on the socket that the first argument names.

It answers each call in the way that the name of the image asks for. python-h2 refuses a client that breaks HTTP/2;
such a refusal is written and ends the connection.
"""

import socket
import sys
import threading

import h2.config
import h2.connection
import h2.events
import h2.settings

# ImageStatusResponse { image: { id: "sha256:id", size: 7 } } with the prefix of gRPC.
MESSAGE = b"\0\0\0\0\x0f\x0a\x0d\x0a\x09sha256:id\x20\x07"
HEAD = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0"), ("grpc-message", "")]


def answer(connection, stream, request):
    asks = lambda name: name in request
    if asks(b"reset"):
        return connection.reset_stream(stream, error_code=7)
    if asks(b"goodbye"):
        return connection.close_connection(last_stream_id=0)
    if asks(b"trailers-only"):
        return connection.send_headers(stream, HEAD + [("grpc-status", "5")], end_stream=True)
    head = list(HEAD)
    if asks(b"continuation"):
        # More than two frames, of values that Huffman codes make longer and shorter.
        head += [(f"x-{n}", "\\^~" * 100 if n % 2 else "a" * 300) for n in range(100)]
    if asks(b"indexed"):
        connection.send_headers(stream, [(":status", "103"), ("x-hint", "of the dynamic table")])
        head += [("x-hint", "of the dynamic table"), ("set-cookie", "never indexed")]
    connection.send_headers(stream, head)
    if asks(b"pings"):
        for n in range(500):
            connection.ping(n.to_bytes(8, "big"))
    if asks(b"settings"):
        connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20})
    if asks(b"padded"):
        for byte in MESSAGE:
            connection.send_data(stream, bytes([byte]), pad_length=byte)
    else:
        connection.send_data(stream, MESSAGE)
    connection.send_headers(stream, OK, end_stream=True)


def serve(peer):
    config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    # In force when the client acknowledges it; what it has sent by then makes its window negative.
    connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100})
    peer.sendall(connection.data_to_send())
    request = b""
    while received := peer.recv(65536):
        try:
            events = connection.receive_data(received)
        except h2.exceptions.ProtocolError as error:
            if b"goodbye" in request:
                return  # The client's acknowledgement of the settings came after the end.
            print(f"refused: {error!r}", flush=True)
            return
        for event in events:
            if isinstance(event, h2.events.DataReceived):
                request += event.data
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                print(f"{len(request)} bytes", flush=True)
                answer(connection, event.stream_id, request)
            elif isinstance(event, h2.events.PingAckReceived):
                print("pong", flush=True)
        peer.sendall(connection.data_to_send())


def run(peer):
    with peer:
        try:
            serve(peer)
        except OSError:
            pass  # The client is done.


listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(64)
print("ready", flush=True)
while True:
    threading.Thread(target=run, args=(listener.accept()[0],), daemon=True).start()
