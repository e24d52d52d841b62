"""A WebSocket server that echoes. Arguments: address, port, and the file of a certificate and its key, for TLS."""

import asyncio
import http
import ssl
import sys

import websockets


def answer(connection, request):
    if request.path == "/refused":
        return connection.respond(http.HTTPStatus.UPGRADE_REQUIRED, "not here\n")
    if request.path == "/plain":
        return connection.respond(http.HTTPStatus.OK, "plain\n")
    return None


async def echo(connection):
    fields = connection.request.headers
    if connection.request.path == "/fields":
        await connection.send(fields.get("X-Forwarded-Proto", "-") + " " + fields.get("Host", "-"))
    if connection.request.path == "/first":
        await connection.send("the server speaks first")
    async for message in connection:
        if message == "close":
            await connection.close(4001, "as asked for")
            return
        await connection.send(message)


async def main():
    settings = {"max_size": 1 << 24, "process_request": answer}
    if len(sys.argv) > 3:
        settings["ssl"] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        settings["ssl"].load_cert_chain(sys.argv[3])
    async with websockets.serve(echo, sys.argv[1], int(sys.argv[2]), **settings):
        print("listening", flush=True)
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
