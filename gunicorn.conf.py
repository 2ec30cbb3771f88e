"""gunicorn's own configuration: web workers, and runners supervised beside them. The command line wins.

A runner is one of gunicorn's workers: the arbiter forks it, sees its heartbeat, replaces it when it dies or
hangs, and drains it on SIGTERM within `--graceful-timeout`. What makes it a runner is decided at the fork.
"""

import gc
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path

from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.util import close_graceful
from gunicorn.workers import gasgi
from gunicorn.workers.base import Worker
from gunicorn.workers.gasgi import ASGIWorker
from gunicorn.workers.gthread import TConn, ThreadWorker

from app.config import load_settings
from app.data.objects import Storage
from app.db import Database
from app.errors import ConfigurationError
from app.interpreter import share_interpreter
from app.log import logging_config
from app.models.current import remember_declarations
from app.native_threads import cap_native_threads

try:
    settings = load_settings()
    declared = remember_declarations(settings.models_file)
    Database(settings.database_url)
    Storage.of(settings.storage_prefixes)
except ConfigurationError as error:
    sys.exit(f"twofold: {error}")


CLIENT_TIMEOUT = struct.pack("ll", *divmod(int(settings.client_timeout_seconds * 1e6), 10**6))
METRICS, OURS = "PROMETHEUS_MULTIPROC_DIR", "twofold-metrics-"
MEMORY, ROOM_BYTES = "/dev/shm", 16 << 20  # noqa: S108 — only a folder that is made for us alone is written to


def _make_metrics_folder() -> str:
    """In memory, where there is room: its files are mapped, so that where a disk, or memory, is full the next number
    that is counted ends the process, by SIGBUS; and of the two a disk is full more often."""
    with suppress(OSError):
        if shutil.disk_usage(MEMORY).free > ROOM_BYTES:
            return tempfile.mkdtemp(prefix=OURS, dir=MEMORY)
    return tempfile.mkdtemp(prefix=OURS)


if METRICS not in os.environ:
    # Before anything imports the client of Prometheus, which looks for this then: what needs it is imported below.
    os.environ[METRICS] = _make_metrics_folder()


class WebWorker(ThreadWorker):
    """A threaded worker, for `wsgi:app`, whose plain requests take the express, unless each is to be logged.

    It closes its listener as soon as it is told to stop. gunicorn's keeps it for as long as a request runs; and since
    each worker has a listener of its own, the kernel would go on giving it its share of the new connections, which
    nobody would answer.
    """

    kept = None

    def load_wsgi(self) -> None:
        super().load_wsgi()
        from app.lanes.thread_connections import KeptConnections  # counts calls, so not before METRICS is set
        from app.lanes.threads import ThreadLane

        lane = getattr(self.wsgi, "wsgi_app", None)  # of a Flask app that nothing is wrapped around
        if isinstance(lane, ThreadLane) and not (self.log.access_log_enabled or self.cfg.is_ssl):
            self.kept = KeptConnections(self, lane)

    def enqueue_req(self, conn: TConn) -> None:
        """Hands a request to a thread, which a client that neither sends nor takes anything does not keep for long."""
        for limited in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            conn.sock.setsockopt(socket.SOL_SOCKET, limited, CLIENT_TIMEOUT)
        super().enqueue_req(conn)

    def handle(self, conn: TConn) -> object:
        """Handles a request; takes leave of a client here that is not kept, for which gunicorn's main thread would wait
        two seconds, while nobody is accepted and no heartbeat is given."""
        is_kept: object = super().handle(conn)
        if not is_kept and not self.cfg.is_ssl:
            with suppress(OSError):  # it is closed
                close_graceful(conn.sock.dup())
                conn.sock.shutdown(socket.SHUT_RDWR)
        return is_kept

    def on_client_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        if self.kept is None or not self.kept.take(conn):
            super().on_client_socket_readable(conn, client)

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        if not (enabled or self.alive):
            for listener in self.sockets:
                n_before = -1
                while n_before != self.nr_conns:  # those who are connected already are served
                    n_before = self.nr_conns
                    self.accept(listener)
                listener.close()


class LoopWorker(ASGIWorker):
    """gunicorn's ASGI worker, for `asgi:app`, whose plain requests take the express, unless each is to be logged.

    It is told to stop also while it still loads the app. uvloop hears of signals only while it runs, and forgets those
    that came before: a worker that was just started when it was no longer wanted would stay.
    """

    def load_wsgi(self) -> None:
        super().load_wsgi()
        from app.lanes.loop import LoopLane  # counts its models' calls, so not before METRICS is set
        from app.lanes.loop_connections import Connection

        if isinstance(self.asgi, LoopLane):
            self.express = None if self.log.access_log_enabled else self.asgi.express(self.loop)
            gasgi.ASGIProtocol = (
                Connection  # what a worker's sockets are served by: there is no setting for it
            )

    def init_signals(self) -> None:
        super().init_signals()
        signal.signal(signal.SIGTERM, lambda *_: self.handle_exit_signal())
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, lambda *_: self.handle_quit_signal())


class Log(Logger):
    """gunicorn's logger, whose access log is a setting: with `logconfig_dict` it would be on, whatever it costs."""

    @property
    def access_log_enabled(self) -> bool:
        return settings.access_log == "on"


bind = "127.0.0.1:8000"
workers = 2
worker_class = WebWorker
threads = settings.web_threads
# Each worker listens for itself. With one shared socket, keep-alive connections pile up on one worker.
reuse_port = True
graceful_timeout = 30
asgi_lifespan = "off"
# A client that hangs up cancels its request at once, so that no model sees it; what else runs for it is shielded.
asgi_disconnect_grace_period = 0
control_socket_disable = True  # one per user by default: two servers would fight for it
logger_class = Log
logconfig_dict = logging_config(settings)

N_RUNNERS = settings.runners if settings.runner == "embedded" else 0
DRAIN_MARGIN_SECONDS = 2.0
"""Of `--graceful-timeout`, what is left for giving chunks back before gunicorn kills."""


def on_starting(server: Arbiter) -> None:
    _arrange(server)
    cap_native_threads(settings, server.num_workers)
    _refuse_taken_address(server)
    server.reload = partial(_reload, server)
    _import_before_fork()
    _preload()
    # A child's garbage collector writes into all that it looks at, and so would copy every page of it.
    gc.collect()
    gc.freeze()
    if os.environ.get("GUNICORN_FD") == "":
        # SIGUSR2 hands on the sockets of the old server by number; with `reuse_port` there are none, and
        # gunicorn cannot read the empty list. It does not use what it reads then, either.
        os.environ["GUNICORN_FD"] = "0"


def nworkers_changed(server: Arbiter, n_workers: int, _before: int | None) -> None:
    """TTOU leaves the last web worker there, as gunicorn leaves the last worker; SIGWINCH wants none at all."""
    if 0 < n_workers <= N_RUNNERS:
        server.num_workers = 1 + N_RUNNERS


def pre_fork(server: Arbiter, worker: Worker) -> None:
    """The next worker is a runner, if there are too few."""
    worker.is_runner = sum(map(is_runner, server.WORKERS.values())) < N_RUNNERS
    if worker.is_runner:
        worker.age = sys.maxsize  # TTOU stops the oldest, which should be a web worker
    # A runner that listened, if only for a moment, would be given connections that nobody answers.
    server.cfg.set("reuse_port", server.wants_reuse_port and not worker.is_runner)


def post_fork(server: Arbiter, worker: Worker) -> None:
    if is_runner(worker):
        # Until it has handlers of its own, it has the arbiter's, which would have it miss that it is to stop.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        from app.runner_process import run_process  # counts its models' calls, so not before METRICS is set

        os.nice(settings.runner_nice)
        server.log.info("Worker %s is a runner", worker.pid)
        drain_seconds = max(0.0, worker.cfg.graceful_timeout - DRAIN_MARGIN_SECONDS)
        run_process(settings, drain_seconds=drain_seconds, heartbeat=partial(_beat, worker))
        sys.exit(0)


def child_exit(_server: Arbiter, worker: Worker) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)


def on_exit(_server: Arbiter) -> None:
    directory = Path(os.environ[METRICS])
    if directory.name.startswith(OURS):
        shutil.rmtree(directory, ignore_errors=True)


def post_worker_init(worker: Worker) -> None:
    """Begins to load the models now, instead of at the first request, and to follow what is told about them."""
    share_interpreter()
    from app.factory import follow

    app = worker.app.wsgi()
    follow(app)
    app.extensions["twofold"].registry.freeze_when_loaded()


def is_runner(worker: Worker) -> bool:
    return getattr(worker, "is_runner", False)


def _reload(server: Arbiter) -> None:
    """Has the models reloaded in place, here and on every host that uses the database; no process is replaced.

    gunicorn's own reload would stop the old workers before the new ones have loaded their models, or have failed to.
    The command is a process of its own, because the arbiter must not open what its workers would inherit. It says in
    one line what came of it, in our log.
    """
    with suppress(ConfigurationError):  # the command tells of it
        remember_declarations(settings.models_file)
    command = "from app.cli import main; main()"
    subprocess.Popen([sys.executable, "-c", command, "models", "reload"])  # reaped with the workers


def _beat(worker: Worker) -> None:
    """Tells the arbiter that the runner lives; drains if there is no arbiter any more, as web workers do."""
    worker.notify()
    if os.getppid() != worker.ppid:
        signal.raise_signal(signal.SIGTERM)


def _import_before_fork() -> None:
    """Imports once what each worker and runner would import for itself: they share its memory, and start sooner."""
    import app.factory
    import app.runner_process  # noqa: F401 — both count calls, so not before METRICS is set


def _preload() -> None:
    """Loads, before any fork, what is declared with `preload`: the workers and runners share its memory."""
    chosen = [each for each in declared if each.preload]
    if chosen:
        from app.log import configure_logging
        from app.models.preloading import preload

        configure_logging(settings)
        preload(chosen, settings.artifact_cache)


def _arrange(server: Arbiter) -> None:
    """Chooses the kind of web worker by what is served, and counts runners on top of the workers asked for."""
    if server.worker_class is WebWorker and server.app.app_uri.partition(":")[0] == "asgi":
        server.worker_class = LoopWorker
        server.cfg.set("worker_class", LoopWorker)
        server.cfg.set("threads", 1)  # it has no use for more, and says so
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
