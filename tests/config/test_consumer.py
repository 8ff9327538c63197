"""A broker that is away for hours costs a process nothing that it could run out of."""

import gc
import os

import pytest
from kombu import Connection
from kombu.exceptions import OperationalError

from config.consumer import PatientConsumer
from devstack.ports import free_port


def test_a_try_to_connect_that_fails_leaves_no_file_open() -> None:
    consumer = PatientConsumer.__new__(PatientConsumer)  # which needs no worker to connect
    port = free_port()
    gc.collect()
    gc.disable()
    try:
        before = len(os.listdir("/dev/fd"))  # of which other tests' threads may still open and close some
        for _ in range(20):
            with pytest.raises(OperationalError):
                consumer.ensure_connected(Connection(f"redis://127.0.0.1:{port}/0"))
        assert len(os.listdir("/dev/fd")) < before + 10
    finally:
        gc.enable()
