"""Bytes between the driver and its workers: sockets, messages and shared memory."""
