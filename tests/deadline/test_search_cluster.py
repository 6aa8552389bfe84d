"""Search on PostgreSQL, and on a Ray cluster of two nodes of which one is lost; both started here, on loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deadline import toy_search
from deadline.test_search import plan_in
from precut import PrecutError
from precut.deadline import search, storage_url
from precut.deadline._study import open_study

pytest.importorskip("optuna")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
LONG = 400.0  # seconds: no study here takes that long, however busy the machine is


@pytest.fixture(autouse=True)
def reachable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent.parent), *sys.path]))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


def programs() -> Path | None:
    """The folder of PostgreSQL's programs (Debian keeps them out of the PATH)."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of an empty database server's database, on a free port of loopback."""
    pytest.importorskip("psycopg")
    folder = programs()
    if folder is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    as_user: dict[str, str] = {}
    if os.getuid() == 0:  # the server refuses to run as root
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("there is no user postgres to run the server as")
        as_user = {"user": "postgres"}
    place = Path(tempfile.mkdtemp(prefix="precut-pg-"))
    shutil.chown(place, **as_user) if as_user else None
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": place, **as_user}
    subprocess.run([folder / "initdb", "-D", place / "data", "-A", "trust", "-U", "precut"], check=True, **quiet)
    control = [folder / "pg_ctl", "-D", place / "data", "-l", place / "log", "-w"]
    for _ in range(3):  # somebody may take the port before the server does
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={place} -c fsync=off"
        started = subprocess.run([*control, "-o", options, "start"], **quiet)
        if started.returncode == 0:
            break
    try:
        assert started.returncode == 0, (place / "log").read_text()
        yield f"postgresql://precut@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **quiet)
        shutil.rmtree(place, ignore_errors=True)


def test_two_workers_on_postgresql(tmp_path, postgres):
    plan = plan_in(tmp_path, trials=10, storage=storage_url(postgres, tmp_path), settings={"sleep": 0.05})
    plan = replace(plan, until=time.time() + LONG)
    result = search(plan, workers=2)
    assert result.done
    assert all(row["accuracy"] == toy_search.accuracy_of(row) for row in result.rows)
    again = search(replace(plan, trials=12))
    assert again.counts["finished"] + again.counts["rejected"] == 12
    assert again.rows[: len(result.rows)] == result.rows
    with pytest.raises(PrecutError, match="was begun with settings"):
        open_study(replace(plan, settings={"sleep": 9}))


def test_a_database_that_is_not_there(tmp_path):
    with pytest.raises(PrecutError, match=r"the database 'postgresql\+psycopg://.*' cannot be used: "):
        open_study(plan_in(tmp_path, storage=storage_url("postgresql://nobody@127.0.0.1:9/none", tmp_path)))


def test_two_ray_nodes_of_which_one_is_lost(tmp_path):
    """Finished trials stay, the lost one is begun again on the other node, and the rest is completed."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 10**8, "node_ip_address": "127.0.0.2"}
    seen: list[dict[str, int]] = []
    end = time.monotonic() + LONG

    def lose_a_node(counts) -> None:
        assert time.monotonic() < end, f"the study stands still: {counts}"
        begun = sum(1 for _ in tmp_path.glob("trial-*/begun"))
        both = counts["running"] == 2 and begun == counts["finished"] + counts["rejected"] + 2
        if not seen and counts["finished"] >= 2 and both:
            seen.append(dict(counts))
            cluster.remove_node(second, allow_graceful=False)

    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        second = cluster.add_node(**{**node, "node_ip_address": "127.0.0.3"})
        # Ray takes 127.0.0.1 for "the address that others see", which it is not
        ray.init(address=cluster.address, _node_ip_address="127.0.0.2", log_to_driver=False, logging_level="error")
        plan = plan_in(tmp_path, trials=12, settings={"sleep": 0.5})
        result = search(plan, workers=2, ray="auto", on_change=lose_a_node)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert seen
    assert result.done
    assert result.counts["retried"] == 1
    assert result.counts["running"] == result.counts["failed"] == 0
    ended = {path.parent.name for path in tmp_path.glob("trial-*/ended")}
    begun = {path.parent.name: path.read_text().split() for path in tmp_path.glob("trial-*/begun")}
    assert sum(len(pids) > 1 for pids in begun.values()) == 1
    assert len(ended) == result.counts["finished"]


def test_no_cluster(tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(PrecutError, match=r"there is no Ray cluster at '127.0.0.2:9'"):
        search(plan_in(tmp_path), ray="127.0.0.2:9")
