"""The scratch folder of the benchmarks that serve: environments with pinned versions, a trained model, bodies.

It is made once and used again, until one of the requirements or this code changes. Nothing of it is in the
project's own environment or lock files.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
SERVICE = (ROOT / "requirements" / "base.txt", HERE / "models.txt", HERE / "dask.txt")
PEERS = (HERE / "peers.txt", HERE / "models.txt")
SERVICE_VERSIONS = ("gunicorn", "flask", "marshmallow", "sqlalchemy", "orjson", "scikit-learn")
PEER_VERSIONS = ("fastapi", "pydantic", "uvicorn", "uvloop", "mosec")
MODELS = """
[[model]]
name = "nothing"
version = "1"
class = "benchmarks.online.models:Nothing"

[[model]]
name = "tfidf"
version = "1"
class = "benchmarks.online.models:TfIdf"
artifact = "{folder}/tfidf.joblib"

[[model]]
name = "sentiment"
version = "1"
class = "app.models.sentiment:Sentiment"
"""


class Scratch:
    """What the servers need, in one folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.gettempdir()) / "twofold-online-benchmark"
        self.models_file = self.folder / "models.toml"

    def prepare(self) -> None:
        """Makes what serving needs and is missing. Exits with a message if something cannot be had."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.make_environment("service", SERVICE)
        self._train()
        self.models_file.write_text(MODELS.format(folder=self.folder))

    def prepare_online(self) -> None:
        """The same, and other model servers, and the load generator."""
        install_wrk()
        self.prepare()
        self.make_environment("peers", PEERS)

    def bin(self, environment: str, program: str) -> str:
        """The path of a program of "service", this project's environment, or of "peers"."""
        return str(self.folder / environment / "bin" / program)

    def environment(self) -> dict[str, str]:
        """The variables of every server: one thread for each numeric library, as where each core has a worker."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TWOFOLD_", "GUNICORN", "FLASK", "UVICORN", "MOSEC"))
        }
        return inherited | {
            "PYTHONPATH": str(ROOT),
            "BENCH_FOLDER": str(self.folder),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }

    def versions(self, **others: Sequence[str]) -> dict[str, str]:
        """Of Python and what serves, and of these packages of other environments."""
        code = (
            "import importlib.metadata as metadata, sys\n"
            "for name in sys.argv[1:]: print(name, metadata.version(name))"
        )
        found = {"python": sys.version.split()[0]}
        if "peers" in others:
            found["wrk"] = _wrk_version()
        for environment, names in {"service": SERVICE_VERSIONS, **others}.items():
            listed = subprocess.run(
                [self.bin(environment, "python"), "-c", code, *names],
                check=True,
                capture_output=True,
                text=True,
            )
            found |= dict(line.split() for line in listed.stdout.splitlines())
        return found

    def make_environment(self, name: str, requirements: tuple[Path, ...]) -> None:
        """A virtual environment with these requirements; the one that is there, if they have not changed."""
        folder, stamp = self.folder / name, self.folder / name / "stamp"
        wanted = _digest(requirements)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        print(f"Installing the environment {name!r} into {folder} (once)", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        for file in requirements:
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "-r", str(file)]
            run = subprocess.run(pip, capture_output=True, text=True, check=False)
            if run.returncode:
                sys.exit(f"{file.name} could not be installed:\n{run.stderr}")
        stamp.write_text(wanted)

    def _train(self) -> None:
        stamp, wanted = self.folder / "trained", _digest((HERE / "classifier.py", HERE / "models.txt"))
        if stamp.exists() and stamp.read_text() == wanted:
            return
        command = [self.bin("service", "python"), "-m", "benchmarks.online.classifier", str(self.folder)]
        subprocess.run(command, check=True, env=self.environment(), cwd=ROOT)
        stamp.write_text(wanted)


def install_wrk() -> None:
    """Makes sure that the load generator is there: by apt where that is allowed."""
    if shutil.which("wrk"):
        return
    if shutil.which("apt-get") and os.geteuid() == 0:
        print("Installing wrk, the load generator, by apt-get", flush=True)
        for command in (["apt-get", "-qq", "update"], ["apt-get", "-qq", "-y", "install", "wrk"]):
            subprocess.run(command, capture_output=True, check=False)
    if not shutil.which("wrk"):
        sys.exit(
            "The load generator wrk is missing: apt-get install wrk (Debian, Ubuntu), brew install wrk (macOS)"
        )


def _wrk_version() -> str:
    printed = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False).stdout
    return printed.split()[1] if printed else "unknown"


def _digest(files: tuple[Path, ...]) -> str:
    content = sys.version.encode() + b"".join(file.read_bytes() for file in files)
    return hashlib.sha256(content).hexdigest()
