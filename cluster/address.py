"""Addresses of clusters: what they look like, and whether one answers."""

import os
import socket

from sumgrad.cluster.errors import ClusterUnreachable

NAMED_ADDRESSES = ("inline", "local", "auto")  #: Addresses that are not those of a host.

CONNECT_TIMEOUT_S = 3.0  #: Seconds within which a host has to accept a connection.
_REPLY_TIMEOUT_S = 10.0  #: Seconds within which Ray's head has to reply; a busy one takes a moment.
#: The client's connection preface of HTTP/2, on which gRPC is based, with an empty SETTINGS frame.
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_HTTP2_HEADER_BYTES = 9
_HTTP2_SETTINGS = 4


def check_address(address: str) -> None:
    """Raise `ClusterUnreachable` unless a text is an address; no connection is made."""
    if address in NAMED_ADDRESSES:
        return
    if address.startswith("ray://"):
        raise ClusterUnreachable(
            "Ray Client addresses (ray://) are not supported",
            hint="run on a machine of the cluster, with its GCS address: host:6379",
        )
    host, _, port = address.rpartition(":")
    # `int` accepts digits of other scripts too.
    if not host or not (port.isascii() and port.isdigit()):
        raise ClusterUnreachable(
            f"cluster.address '{address}' is not inline, local, auto or host:port",
            hint="the address of a Ray head is often host:6379",
        )


def check_reachable(address: str) -> None:
    """Raise `ClusterUnreachable` unless Ray's head answers; Ray itself tries for minutes."""
    check_address(address)
    if address in NAMED_ADDRESSES:
        return
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S) as probe:
            # With TLS the head replies only after a handshake with certificates.
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("0", "false"):
                _check_grpc(probe)
    except (OSError, OverflowError) as error:
        raise ClusterUnreachable(
            f"no Ray cluster answers at '{address}': {error}",
            hint="check cluster.address, or use local",
        ) from None


def _check_grpc(probe: socket.socket) -> None:
    """Raise OSError unless the peer replies as a gRPC server; a suspended process does not."""
    probe.settimeout(_REPLY_TIMEOUT_S)
    probe.sendall(_HTTP2_PREFACE)
    with probe.makefile("rb") as replies:
        reply = replies.read(_HTTP2_HEADER_BYTES)
    if len(reply) < _HTTP2_HEADER_BYTES:
        raise OSError("it closed the connection")
    if reply[3] != _HTTP2_SETTINGS:
        raise OSError("it is not a Ray head")
