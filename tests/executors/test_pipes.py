"""The pipes between a runner and its child processes."""

import os
import sys

import pytest

from app.executors.processes import CONTEXT, PIPE_BYTES


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a pipe's size be set")
def test_a_pipe_takes_whole_chunks_that_nobody_reads_yet() -> None:
    reader, writer = CONTEXT.Pipe(duplex=False)
    with reader, writer:
        os.set_blocking(writer.fileno(), False)
        assert os.write(writer.fileno(), bytes(PIPE_BYTES)) == PIPE_BYTES
