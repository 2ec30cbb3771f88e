"""Counting is never what a prediction or a job fails by."""

import os
import re
import shutil
from pathlib import Path

from tests.process.conftest import Server, both_lanes


@both_lanes
def test_where_the_metrics_are_swept_away_all_goes_on_and_is_counted_anew(sqlite_server: Server) -> None:
    server = sqlite_server
    directory = server.directory / "counted"
    directory.mkdir()
    server.environment["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    server.start("-w", "1")
    server.finish(server.enqueue(3), 3)
    shutil.rmtree(directory)

    server.kill_children(n_web=1)

    status, answer = server.call("POST", "/v1/models/held/predict", {"data": [{"number": 4}]})
    assert (status, answer["prediction"]) == (200, [{"number": 4, "double": 8}])
    server.finish(server.enqueue(5), 5)
    status, metrics = server.call("GET", "/metrics")
    assert status == 200
    assert re.search(rb'twofold_batch_items_count\{model="held",version="1"\} 1', metrics)
    assert server.stop() == 0


def test_the_counts_are_kept_in_memory_where_no_full_disk_can_end_a_process(sqlite_server: Server) -> None:
    server = sqlite_server
    server.start("-w", "1")
    server.call("POST", "/v1/models/held/predict", {"data": [{"number": 4}]})

    maps = "".join(Path(f"/proc/{child}/maps").read_text() for child in server.children())
    mapped = set(re.findall(r"/\S*/twofold-metrics-\S+", maps))
    assert mapped
    assert all(path.startswith("/dev/shm/") for path in mapped)
    assert server.stop() == 0
    assert not any(map(os.path.exists, mapped))
