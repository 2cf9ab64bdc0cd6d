from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from convc.ir.diagnostic import CompileError
from convc.runtime.metrics import EpochRecord, Metrics
from convc.runtime.run_folder import open_folder


def refusal(out: Path | None, resume: bool = False, root: Path = Path("runs")) -> str:
    with pytest.raises(CompileError) as error:
        open_folder(out, "lenet", resume, root)
    return error.value.diagnostics[0].code


def make_run(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text("{}")


def test_numbers_count_up(tmp_path: Path) -> None:
    first, continued = open_folder(None, "lenet", False, tmp_path)
    assert (first.path, continued) == (tmp_path / "lenet-1", False)
    (tmp_path / "lenet-7").mkdir()
    (tmp_path / "lenet-deep-9").mkdir()
    assert open_folder(None, "lenet", False, tmp_path)[0].path == tmp_path / "lenet-8"


def test_resume_finds_the_last_run(tmp_path: Path) -> None:
    make_run(tmp_path / "lenet-2")
    make_run(tmp_path / "lenet-10")
    (tmp_path / "lenet-11").mkdir()  # died before it began
    folder, continued = open_folder(None, "lenet", True, tmp_path)
    assert (folder.path, continued) == (tmp_path / "lenet-10", True)


def test_resume_without_a_run_starts_afresh(tmp_path: Path) -> None:
    folder, continued = open_folder(None, "lenet", True, tmp_path)
    assert (folder.path.name, continued) == ("lenet-1", False)
    folder, continued = open_folder(tmp_path / "x" / "y", "lenet", True)
    assert (folder.path.is_dir(), continued) == (True, False)


def test_foreign_and_occupied_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"x")
    assert refusal(tmp_path / "photos") == "file-folder"
    assert refusal(tmp_path / "photos", resume=True) == "file-folder"
    make_run(tmp_path / "run")
    assert refusal(tmp_path / "run") == "file-folder"
    (tmp_path / "file").write_text("")
    assert refusal(tmp_path / "file") == "file-folder"
    assert os.listdir(tmp_path / "photos") == ["cat.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folders(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert refusal(tmp_path / "run") == "file-write"
    assert refusal(None, root=tmp_path / "runs") == "file-write"


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    assert refusal(None, root=tmp_path / "runs") == "file-write"
    assert refusal(tmp_path / "runs" / "x") == "file-write"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    folder, _ = open_folder(tmp_path / "run", "lenet", False)
    folder.write_json(folder.settings, {})
    program = (
        "import sys; from pathlib import Path; from convc.runtime.run_folder import open_folder\n"
        "open_folder(Path(sys.argv[1]), 'lenet', True)"
    )
    command = [sys.executable, "-c", program, str(folder.path)]
    taken = subprocess.run(command, capture_output=True, text=True, check=False)
    assert taken.returncode == 1
    assert "file-in-use" in taken.stderr
    folder.close()
    assert subprocess.run(command, check=False).returncode == 0


def record(epoch: int, **changes: object) -> EpochRecord:
    values = {
        "epoch": epoch, "step": 10 * epoch, "learning_rate": 0.1, "train_loss": 0.5, "train_accuracy": 0.75,
        "validation_loss": None, "validation_accuracy": None, "seconds": 1.5, "images_per_second": 100.0, "best": True,
    }  # fmt: skip
    return EpochRecord(**{**values, **changes})  # type: ignore[arg-type]


def test_metrics_files(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    metrics.restart(0)
    metrics.append(record(1))
    metrics.append(
        record(
            2, validation_loss=0.25, validation_accuracy=0.5, best=False, note='a "b", c', loss_scale=512.0, skipped=3
        )
    )
    header, first, second = (tmp_path / "metrics.csv").read_text().splitlines()
    assert header.startswith("epoch,step,learning_rate,train_loss,")
    assert first == "1,10,0.1,0.5,0.75,,,1.5,100.0,1,,,"
    assert second == '2,20,0.1,0.5,0.75,0.25,0.5,1.5,100.0,0,"a ""b"", c",512.0,3'
    again = Metrics(tmp_path)
    again.restart(2)
    assert again.records == metrics.records


def test_metrics_forget_what_will_happen_again(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    metrics.restart(0)
    metrics.append(record(1))
    metrics.append(record(2))
    with open(metrics.jsonl, "a") as file:
        file.write('{"epoch": 3, "st')
    again = Metrics(tmp_path)
    again.restart(1)
    assert [r.epoch for r in again.records] == [1]
    assert len(metrics.csv.read_text().splitlines()) == 2
    assert len(metrics.jsonl.read_text().splitlines()) == 1
