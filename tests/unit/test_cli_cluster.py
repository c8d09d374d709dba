"""The verbs of `distcnn cluster` that send nothing, and the mistakes that people make."""

import json
from pathlib import Path

import pytest
import yaml

from distcnn.cli import main


@pytest.fixture(autouse=True)
def _nobodys(tmp_path, monkeypatch):
    """In an empty folder, with nothing remembered and no cluster around."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTCNN_STATE_DIR", str(tmp_path / "state"))
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS", "DISTCNN_PRICES"):
        monkeypatch.delenv(name, raising=False)


def cluster(*words):
    return main(["cluster", *words])


def test_a_plan_tells_what_is_sent_where_for_how_long_and_how_much(capsys):
    assert cluster("plan", "quick", "--target", "slurm", "--nodes", "2", "--max-time", "30m") == 0
    told = capsys.readouterr().out
    for words in ("machines    2 x", "2 workers of 2 CPU", "about", "30m", "USD", "MiB"):
        assert words in told


def test_workers_follow_from_machines_unless_they_are_given(capsys):
    where = ("--target", "slurm", "--nodes", "2", "--gpus-per-node", "4")
    cluster("plan", "quick", *where, "cluster.cpus_per_node=16")
    assert "8 workers of 4 CPU and 1 GPU" in capsys.readouterr().out
    cluster("plan", "quick", *where, "workers.cpus=2")
    assert "8 workers of 2 CPU and 1 GPU" in capsys.readouterr().out
    cluster("plan", "quick", *where, "workers.count=3")
    assert "3 workers of 1 CPU and 1 GPU" in capsys.readouterr().out
    cluster("plan", "tune", *where, "cluster.cpus_per_node=16")
    assert "for each trial" in capsys.readouterr().out


def test_prices_can_be_ones_own(tmp_path, capsys):
    prices = tmp_path / "prices.yaml"
    prices.write_text("cpu: {}\n")
    words = ("plan", "quick", "--target", "slurm", "--prices", str(prices))
    assert cluster(*words) == 2
    assert "has to be given" in capsys.readouterr().err


def test_a_dry_run_prints_what_would_be_sent_and_leaves_nothing(tmp_path, capsys):
    assert cluster("submit", "quick", "--id", "mine", "--dry-run", "seed=7") == 0
    sent, ticket, config = yaml.safe_load_all(capsys.readouterr().out)
    assert sent["command"][-1] == "job.json"
    assert ticket["run_dir"] == str(tmp_path / "runs" / "mine")
    assert config["seed"] == 7
    assert list(tmp_path.iterdir()) == []


def test_a_secret_is_named_and_not_shown(capsys, monkeypatch):
    monkeypatch.setenv("KEY", "do not show")
    more = ("cluster.secrets=[KEY]", "--run-dir", "s3://bucket/mine", "--dry-run")
    for target, image in (("local", ""), ("slurm", ""), ("kuberay", "registry/a:1")):
        image = [f"cluster.image={image}"] if image else []
        assert cluster("submit", "quick", "--target", target, *image, *more) == 0
        printed = capsys.readouterr().out
        assert "KEY" in printed
        assert "do not show" not in printed


def test_a_secret_that_is_not_set_is_told_before_anything_is_sent(capsys):
    assert cluster("doctor", "quick", "cluster.secrets=[NO_SUCH_KEY]") == 1
    assert "NO_SUCH_KEY is not set here; export NO_SUCH_KEY" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("submit mine.yaml", "no config 'mine.yaml'"),
        ("follow nope", "no job 'nope' is remembered here (there are: none)"),
        ("follow slurm://ci", "it is written slurm://cluster/123"),
        ("plan quick --target ray", "by its whole path, or s3://bucket/prefix"),
        ("plan quick --target kuberay", "target = kuberay needs cluster.image"),
        ("plan quick --id Mine", "Kubernetes takes no other names"),
        ("plan quick cluster.node=2", "no such field; did you mean nodes?"),
        ("plan quick --nodes 2", "target = local is one machine"),
        ("plan quick training.epoch=2", "did you mean training.epochs?"),
        ("render ray-up", "cluster.ray_up.provider: has to be given"),
        ("render raycluster", "no image"),
        ("render raycluster nodes=2", "a field of a cluster begins with `cluster.`"),
    ],
)
def test_a_mistake_is_told_with_its_remedy(words, told, capsys):
    assert cluster(*words.split()) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("submit --target k8s", "no 'k8s'; there is local, ray, slurm, kuberay"),
        ("submit --max-time 4", "'4' is no duration; write 90s"),
        ("submit --nodes 0", "is no whole number above 0"),
        ("status", "HANDLE"),
        ("sumbit", "did you mean 'submit'?"),
    ],
)
def test_words_that_are_no_command(words, told, capsys):
    with pytest.raises(SystemExit) as ended:
        cluster(*words.split())
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_nothing_was_submitted(capsys):
    assert cluster("list", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    assert cluster("list") == 0
    assert "distcnn cluster submit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("cluster.cpus_per_node=4096", "4096 are asked for; set cluster.cpus_per_node="),
        ("cluster.memory_gib_per_node=900000", "900000 GiB are asked for; end something, or lower"),
        (
            "--target ray --address http://127.0.0.1:9 cluster.secrets=[KEY] --run-dir /mine",
            "KEY would be shown to everybody who sees the cluster's jobs",
        ),
        (
            "--target ray --address http://127.0.0.1:9 --run-dir /shared/mine",
            "127.0.0.1:9",
        ),
    ],
)
def test_doctor_refuses_what_cannot_run_there(words, told, capsys, monkeypatch):
    monkeypatch.setenv("KEY", "value")
    assert cluster("doctor", "quick", *words.split()) == 1
    assert told in " ".join(capsys.readouterr().out.split())


def test_render_prints_the_files_that_start_clusters(capsys):
    folder = Path(__file__).parents[2] / "cluster"
    spec = folder / "ray-up" / "on-premises.spec.yaml"
    assert cluster("render", "ray-up", "--cluster", str(spec)) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["provider"]["type"] == "local"
    assert cluster("render", "raycluster", "cluster.image=registry/a:1") == 0
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    assert "RayCluster" in {document["kind"] for document in printed}
