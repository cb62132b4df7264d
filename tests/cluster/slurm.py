"""A Slurm of one node on this machine, with two made-up GPUs: to try things, and for the tests.

    python tests/cluster/slurm.py start /tmp/slurm     (as root)
    snakemake --workflow-profile profiles/slurm --slurm-status-command squeue
    python tests/cluster/slurm.py stop /tmp/slurm

From Debian's packages munge, slurmctld, slurmd and slurm-client. Everything listens on 127.0.0.1
and lies in the folder given, but for /etc/slurm/slurm.conf, a link into it while Slurm runs.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

# Jobs of the plugin drop every variable SLURM_*, so SLURM_CONF alone would not be found in them.
SYSTEM_CONF = Path("/etc/slurm/slurm.conf")
DAEMONS = ("slurmd", "slurmctld", "munged")  # in the order in which they are stopped
GPUS = 2

CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
TaskProlog={folder}/prolog.sh
# Processes are followed without control groups, which containers may not make.
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
# There is no accounting: finished jobs are asked after while they are remembered.
MinJobAge=3600
ReturnToService=2
KillWait=5
GresTypes=gpu
# The node has what is written here, whatever the machine has: requests are scheduled, not limited.
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=32000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""

# What a job sees of the GPUs goes to its Slurm log.
PROLOG = """\
#!/bin/sh
echo "print CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES"
"""


def missing() -> str:
    """Why no Slurm can be started here; empty if it can."""
    programs = [name for name in (*DAEMONS, "sbatch", "scontrol") if not shutil.which(name)]
    if programs:
        return f"Slurm is not installed ({', '.join(programs)}): apt-get install {PACKAGES}"
    if os.getuid():
        return "Slurm's daemons are started as root"
    if SYSTEM_CONF.exists():
        here = SYSTEM_CONF.resolve()
        return f"there is a Slurm already ({here}); if it is one of these, stop it first"
    return ""


PACKAGES = "munge slurmctld slurmd slurm-client"


def start(folder: Path, cpus: int = 3) -> None:
    """Write the configuration, start the daemons, wait until the node takes jobs."""
    if reason := missing():
        raise RuntimeError(reason)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # munge refuses a socket that others cannot reach
    _write_configuration(folder, cpus)
    SYSTEM_CONF.parent.mkdir(exist_ok=True)
    SYSTEM_CONF.unlink(missing_ok=True)  # of a folder that is gone
    SYSTEM_CONF.symlink_to(folder / "slurm.conf")
    munge = ("socket", "key-file", "pid-file", "log-file", "seed-file")
    files = ("munge.socket", "munge.key", "munged.pid", "munged.log", "munge.seed")
    options = [f"--{key}={folder / name}" for key, name in zip(munge, files, strict=True)]
    try:
        subprocess.run(["munged", *options], check=True)
        # A daemon that cannot start says so in its log, and nowhere else.
        for daemon in ("slurmctld", "slurmd"):
            subprocess.run([daemon, "-f", folder / "slurm.conf"], check=True)
        _wait(lambda: command("sinfo", "--noheader", "--format=%T").strip() == "idle", 60)
    except (OSError, subprocess.CalledProcessError) as error:  # also where it is waited too long
        logs = "".join(path.read_text()[-2000:] for path in sorted(folder.glob("*.log")))
        stop(folder)
        raise RuntimeError(f"Slurm did not start ({error}):\n{logs}") from None
    except BaseException:
        stop(folder)
        raise


def stop(folder: Path) -> None:
    """Cancel what runs, stop the daemons by their pids, take the link away."""
    try:
        if _pid(folder, "slurmctld"):
            subprocess.run(["scancel", "--user=root"], check=False)
            with suppress(TimeoutError):
                _wait(lambda: not command("squeue", "--noheader").strip(), 30)
        for daemon in DAEMONS:
            _end(folder, daemon)
    finally:
        if SYSTEM_CONF.is_symlink() and SYSTEM_CONF.readlink() == folder / "slurm.conf":
            SYSTEM_CONF.unlink()


def _end(folder: Path, daemon: str) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if pid := _pid(folder, daemon):
            os.kill(pid, number)
            with suppress(TimeoutError):
                _wait(lambda: not _pid(folder, daemon), 30)


def command(*arguments: str) -> str:
    """What a command of Slurm's prints; nothing if it fails."""
    return subprocess.run(arguments, text=True, capture_output=True, check=False).stdout


def _write_configuration(folder: Path, cpus: int) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir(exist_ok=True)
    key = folder / "munge.key"
    key.unlink(missing_ok=True)
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    prolog = folder / "prolog.sh"
    prolog.write_text(PROLOG)
    prolog.chmod(0o755)
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(host=host, folder=folder, ports=_free_ports(2), cpus=cpus, gpus=GPUS)
    )
    devices = "/dev/null", "/dev/zero"
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={file}\n" for file in devices))


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _pid(folder: Path, daemon: str) -> int | None:
    """The daemon's process, if it runs and is what the file of its pid says."""
    try:
        process = psutil.Process(int((folder / f"{daemon}.pid").read_text()))
        runs = process.name() == daemon and process.status() != psutil.STATUS_ZOMBIE
        return process.pid if runs else None
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return None


def _wait(done: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"not done after {seconds:.0f} s")
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=("start", "stop"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    {"start": start, "stop": stop}[arguments.action](arguments.folder.absolute())


if __name__ == "__main__":
    main()
