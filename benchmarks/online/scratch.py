"""The scratch folder of the online benchmarks: two environments with pinned versions, a trained model, bodies.

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
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
SERVICE = (ROOT / "requirements" / "base.txt", HERE / "models.txt")
PEERS = (HERE / "peers.txt", HERE / "models.txt")
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
        """Makes what is missing; a few minutes the first time. Exits with a message if something cannot be had."""
        self.folder.mkdir(parents=True, exist_ok=True)
        install_wrk()
        self._make_environment("service", SERVICE)
        self._make_environment("peers", PEERS)
        self._train()
        self.models_file.write_text(MODELS.format(folder=self.folder))

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

    def versions(self) -> dict[str, str]:
        """Of what is measured, and what measures."""
        code = (
            "import importlib.metadata as metadata, sys\n"
            "for name in sys.argv[1:]: print(name, metadata.version(name))"
        )
        found = {"python": sys.version.split()[0], "wrk": _wrk_version()}
        for environment, names in (
            ("service", ["gunicorn", "flask", "marshmallow", "orjson", "scikit-learn"]),
            ("peers", ["fastapi", "pydantic", "uvicorn", "uvloop", "mosec"]),
        ):
            listed = subprocess.run(
                [self.bin(environment, "python"), "-c", code, *names],
                check=True,
                capture_output=True,
                text=True,
            )
            found |= dict(line.split() for line in listed.stdout.splitlines())
        return found

    def _make_environment(self, name: str, requirements: tuple[Path, ...]) -> None:
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
