"""Opens connections, has one request answered on each, says so, and holds them until its input ends."""
import resource, socket, ssl, sys

host, port, name, protocol, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 1000, max(count + 1000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))

h1 = f"GET /small HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def literal(index, value):
    return bytes([index, len(value)]) + value.encode()


# Indexed :method GET; :path, :authority and :scheme as literals that are not indexed (RFC 7541 section 6.2.2).
scheme = "https" if protocol.startswith("tls") else "http"
block = b"\x82" + literal(0x04, "/small") + literal(0x01, name) + literal(0x06, scheme)
SETTINGS, HEADERS, ACK, END_HEADERS, END_STREAM = 4, 1, 1, 4, 1
h2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS | END_STREAM, 1, block)


def exactly(connection, count):
    found = b""
    while len(found) < count:
        more = connection.recv(count - len(found))
        if not more:
            sys.exit(f"the connection ended: {found!r}")
        found += more
    return found


def ask_h1(connection):
    connection.sendall(h1)
    head = b""
    while b"\r\n\r\n" not in head:
        more = connection.recv(4096)
        if not more:
            sys.exit(f"the connection ended: {head!r}")
        head += more
    head, _, body = head.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        sys.exit(head.decode("latin-1"))
    lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    exactly(connection, int(lengths[0]) - len(body))


def ask_h2(connection):
    connection.sendall(h2)
    while True:
        head = exactly(connection, 9)
        exactly(connection, int.from_bytes(head[:3], "big"))
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
        if kind == SETTINGS and not flags & ACK:
            connection.sendall(frame(SETTINGS, ACK, 0, b""))
        if kind in (3, 7):
            sys.exit(f"reset or GOAWAY: {head!r}")
        if stream == 1 and flags & END_STREAM:
            return


context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.set_alpn_protocols(["h2" if protocol == "tls-h2" else "http/1.1"])
connections = []
for _ in range(count):
    connection = socket.create_connection((host, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if protocol.startswith("tls"):
        connection = context.wrap_socket(connection, server_hostname=name)
    (ask_h2 if protocol in ("h2c", "tls-h2") else ask_h1)(connection)
    connections.append(connection)
print("ready", flush=True)
sys.stdin.read()
