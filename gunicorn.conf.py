"""gunicorn's own configuration: web workers, and a runner supervised beside them. The command line wins.

The runner is one of gunicorn's workers: the arbiter forks it, sees its heartbeat, replaces it when it dies or
hangs, and drains it on SIGTERM within `--graceful-timeout`. What makes it a runner is decided at the fork.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker
from gunicorn.workers.gthread import ThreadWorker

from app.config import load_settings
from app.db import Database
from app.errors import ConfigurationError
from app.log import logging_config
from app.models.declarations import read_declarations
from app.runner_process import run_process

try:
    settings = load_settings()
    read_declarations(settings.models_file)
    Database(settings.database_url)
except ConfigurationError as error:
    sys.exit(f"twofold: {error}")


class WebWorker(ThreadWorker):
    """A threaded worker that closes its listener as soon as it is told to stop.

    gunicorn's keeps it for as long as a request runs; and since each worker has a listener of its own, the kernel
    would go on giving it its share of the new connections, which nobody would answer.
    """

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        if not (enabled or self.alive):
            for listener in self.sockets:
                n_before = -1
                while n_before != self.nr_conns:  # those who are connected already are served
                    n_before = self.nr_conns
                    self.accept(listener)
                listener.close()


bind = "127.0.0.1:8000"
workers = 2
worker_class = WebWorker
threads = 16
# Each worker listens for itself. With one shared socket, keep-alive connections pile up on one worker.
reuse_port = True
graceful_timeout = 30
control_socket_disable = True  # one per user by default: two servers would fight for it
logconfig_dict = logging_config(settings)

N_RUNNERS = 1 if settings.runner == "embedded" else 0
DRAIN_MARGIN_SECONDS = 2.0
"""Of `--graceful-timeout`, what is left for giving chunks back before gunicorn kills."""


def on_starting(server: Arbiter) -> None:
    _make_room(server)
    _refuse_taken_address(server)
    server.reload = partial(_reload, server, server.reload)
    if os.environ.get("GUNICORN_FD") == "":
        # SIGUSR2 hands on the sockets of the old server by number; with `reuse_port` there are none, and
        # gunicorn cannot read the empty list. It does not use what it reads then, either.
        os.environ["GUNICORN_FD"] = "0"


def on_reload(server: Arbiter) -> None:
    # A reload starts a full set of new workers and stops the oldest: the old runner must be among those.
    for worker in server.WORKERS.values():
        if is_runner(worker):
            worker.is_runner, worker.age = False, 0
    _make_room(server)


def nworkers_changed(server: Arbiter, n_workers: int, _before: int | None) -> None:
    """TTOU leaves the last web worker there, as gunicorn leaves the last worker; SIGWINCH wants none at all."""
    if 0 < n_workers <= N_RUNNERS:
        server.num_workers = 1 + N_RUNNERS


def pre_fork(server: Arbiter, worker: Worker) -> None:
    """The next worker is the runner, if there is none."""
    worker.is_runner = sum(map(is_runner, server.WORKERS.values())) < N_RUNNERS
    if worker.is_runner:
        worker.age = sys.maxsize  # TTOU stops the oldest, which should be a web worker
    # A runner that listened, if only for a moment, would be given connections that nobody answers.
    server.cfg.set("reuse_port", server.wants_reuse_port and not worker.is_runner)


def post_fork(server: Arbiter, worker: Worker) -> None:
    if is_runner(worker):
        server.log.info("Worker %s is the runner", worker.pid)
        drain_seconds = max(0.0, worker.cfg.graceful_timeout - DRAIN_MARGIN_SECONDS)
        run_process(settings, drain_seconds=drain_seconds, heartbeat=partial(_beat, worker))
        sys.exit(0)


def post_worker_init(worker: Worker) -> None:
    """Begins to load the models now, instead of at the first request."""
    worker.app.wsgi().extensions["twofold"].registry.freeze_when_loaded()


def is_runner(worker: Worker) -> bool:
    return getattr(worker, "is_runner", False)


def _reload(server: Arbiter, reload: Callable[[], None]) -> None:
    """Reloads as gunicorn does, unless settings or models are broken: workers that cannot boot would end the server."""
    try:
        read_declarations(load_settings().models_file)
    except ConfigurationError as error:
        server.log.error("not reloaded, the old workers go on: %s", error)
    else:
        reload()


def _beat(worker: Worker) -> None:
    """Tells the arbiter that the runner lives; drains if there is no arbiter any more, as web workers do."""
    worker.notify()
    if os.getppid() != worker.ppid:
        signal.raise_signal(signal.SIGTERM)


def _make_room(server: Arbiter) -> None:
    """Counts the runner as one worker more than was asked for."""
    server.cfg.set("workers", server.cfg.workers + N_RUNNERS)
    server.num_workers = server.cfg.workers
    # Only TCP sockets can share an address; a unix socket is made once, by the arbiter, for all.
    server.wants_reuse_port = all(isinstance(address, tuple) for address in server.cfg.address)
    server.cfg.set("reuse_port", server.wants_reuse_port)


def _refuse_taken_address(server: Arbiter) -> None:
    """With `reuse_port` two servers could share an address unseen, each with half of the requests."""
    for address in server.cfg.address:
        if not server.wants_reuse_port or "GUNICORN_PID" in os.environ:
            return
        with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                sys.exit(f"twofold: cannot listen at {address[0]}:{address[1]}: {error.strerror}")
