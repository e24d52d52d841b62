"""A WebSocket client. Arguments: a URL without a path, the file of a certificate to trust (or -), and the address
to connect to instead of the URL's host (or -). Prints what it saw as JSON."""

import asyncio
import hashlib
import json
import os
import ssl
import sys

import websockets

url, trusted, address = sys.argv[1:4]
settings = {"max_size": 1 << 24, "open_timeout": 30, "ping_interval": None}
if trusted != "-":
    settings["ssl"] = ssl.create_default_context(cafile=trusted)
if address != "-":
    settings["host"] = address


def connect(path, **more):
    return websockets.connect(url + path, **settings, **more)


async def echoes(path, count):
    async with connect(path) as socket:
        for number in range(count):
            await socket.send(f"{path} {number}")
            if await socket.recv() != f"{path} {number}":
                return False
    return True


async def status(path):
    try:
        async with connect(path):
            return 101
    except websockets.exceptions.InvalidStatus as refused:
        return refused.response.status_code


async def main():
    seen = {}
    async with connect("/chat") as socket:
        await socket.send("text: gr\u00fcn")
        seen["text"] = await socket.recv()
        large = os.urandom(3 << 20)
        await socket.send(large)
        back = await socket.recv()
        seen["large"] = hashlib.sha256(back).digest() == hashlib.sha256(large).digest()
        latency = await asyncio.wait_for(await socket.ping(), 30)
        seen["pong"] = latency >= 0
        await socket.send([b"in ", b"frag", b"ments"])
        seen["fragments"] = (await socket.recv()).decode()
        await asyncio.sleep(1.5)
        await socket.send("after a pause")
        seen["pause"] = await socket.recv()
        await socket.send("close")
        await socket.wait_closed()
        seen["closed"] = [socket.close_code, socket.close_reason]
    async with connect("/first") as socket:
        seen["first"] = await socket.recv()
    async with connect("/fields") as socket:
        seen["fields"] = await socket.recv()
    for path in ["/refused", "/plain", "/denied"]:
        seen[path] = await status(path)
    seen["many"] = all(await asyncio.gather(*(echoes(f"/chat/{n}", 20) for n in range(50))))
    print(json.dumps(seen))


asyncio.run(main())
