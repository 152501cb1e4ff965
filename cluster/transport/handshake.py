"""Mutual authentication of the driver and its workers by the job's secret.

A peer that does not know the secret is rejected before anything else that it sent is read.
"""

import hmac
import secrets
import socket
import time
from dataclasses import dataclass
from typing import Literal

from sumgrad.cluster.errors import AuthenticationError, ConnectionClosed
from sumgrad.cluster.transport.connection import Connection

HANDSHAKE_TIMEOUT_S = 5.0  #: Seconds within which a peer has to authenticate.
#: A peer that is silent this long is probed, and disconnected if it does not answer: in seconds,
#: except TCP_USER_TIMEOUT, which is in milliseconds.
_KEEPALIVE = {"KEEPIDLE": 5, "KEEPINTVL": 5, "KEEPCNT": 3, "USER_TIMEOUT": 20_000}
_NONCE_BYTES = 32
_PROOF_BYTES = 32

Role = Literal["driver", "worker"]


@dataclass(frozen=True)
class Address:
    """The sockets at which the driver listens."""

    local: str | None = None  #: Socket name for processes of the driver's machine.
    remote: tuple[str, int] | None = None  #: Host and port for other machines.


def connect(address: Address, secret: bytes) -> Connection:
    """Connect to the driver and authenticate."""
    try:
        return authenticate(_open_socket(address), secret, "worker")
    except OSError as error:
        where = " at {}:{}".format(*address.remote) if address.remote else ""
        raise ConnectionClosed(f"the driver does not answer{where}: {error}") from None


def authenticate(connected: socket.socket, secret: bytes, role: Role) -> Connection:
    """Authenticate to the peer of a socket and check its proof; the socket is closed on failure.

    Raises:
        AuthenticationError: The peer does not know the secret.
        ConnectionClosed: The peer disconnected.
        OSError: The connection failed or the peer took too long.
    """
    try:
        _exchange_proofs(connected, secret, role)
        connected.settimeout(None)
        if connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A machine that loses power closes no connection.
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE.items():
                # Other systems do not have all of them.
                if hasattr(socket, f"TCP_{name}"):
                    option = getattr(socket, f"TCP_{name}")
                    connected.setsockopt(socket.IPPROTO_TCP, option, value)
    except BaseException:
        connected.close()
        raise
    return Connection(connected)


def _exchange_proofs(connected: socket.socket, secret: bytes, role: Role) -> None:
    """Send a nonce, and then the HMAC of the role and both nonces, as the peer does.

    A proof can therefore be neither replayed nor reflected.
    """
    deadline = time.monotonic() + HANDSHAKE_TIMEOUT_S
    connected.settimeout(HANDSHAKE_TIMEOUT_S)
    nonce = secrets.token_bytes(_NONCE_BYTES)
    connected.sendall(nonce)
    peer_nonce = _receive_exactly(connected, _NONCE_BYTES, deadline)
    if role == "driver":
        peer, nonces = "worker", nonce + peer_nonce
    else:
        peer, nonces = "driver", peer_nonce + nonce
    connected.sendall(_proof(secret, role, nonces))
    proof = _receive_exactly(connected, _PROOF_BYTES, deadline)
    if not hmac.compare_digest(proof, _proof(secret, peer, nonces)):
        raise AuthenticationError("a connection was rejected: it does not know the job's secret")


def _proof(secret: bytes, role: str, nonces: bytes) -> bytes:
    return hmac.digest(secret, role.encode() + nonces, "sha256")


def _receive_exactly(connected: socket.socket, count: int, deadline: float) -> bytes:
    data = b""
    while len(data) < count:
        # The deadline covers all bytes: a peer that sends one now and then must not stay.
        connected.settimeout(max(1e-3, deadline - time.monotonic()))
        received = connected.recv(count - len(data))
        if not received:
            raise ConnectionClosed("the peer disconnected during the handshake")
        data += received
    return data


def _open_socket(address: Address) -> socket.socket:
    """Connect by the local name if it exists here, which shows that the machine is the same."""
    if address.local is not None:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connected.connect(address.local)
        except OSError:
            connected.close()
            if address.remote is None:
                raise
        else:
            return connected
    if address.remote is None:
        raise ConnectionClosed("the driver listens on no address")
    return socket.create_connection(address.remote, timeout=HANDSHAKE_TIMEOUT_S)
