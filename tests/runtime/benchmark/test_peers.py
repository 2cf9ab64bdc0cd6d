"""Who takes part in a comparison, and why not."""

from __future__ import annotations

import pytest

from convc.ir.diagnostic import CompileError
from convc.runtime.benchmark import peers
from convc.runtime.benchmark.peers import PEERS, Peer, choose


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is installed but openvino."""
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name == "openvino" else object())


def test_ours_comes_first_and_modes_are_kept_apart() -> None:
    found = choose(None, "infer")
    assert list(found.contestants) == ["convc", "torch", "torch-channels-last", "onnxruntime"]
    assert found.needs_model
    assert choose(None, "train").contestants.keys() == {"convc", "torch", "torch-channels-last"}
    assert not choose(None, "train").needs_model
    assert "torch-compile" in choose(["torch"], "train", compiled=True).contestants
    assert list(choose([], "infer").contestants) == ["convc"]


def test_who_is_not_installed_is_named() -> None:
    (reason,) = choose(None, "infer").left_out
    assert "openvino cannot be imported" in reason
    assert "pip install openvino onnx" in reason
    assert choose(None, "train").left_out == ()
    with pytest.raises(CompileError, match="missing-package") as caught:
        choose(["onnxruntime", "openvino"], "infer")
    assert "pip install openvino onnx" in str(caught.value.diagnostics[0].hint)


def test_a_peer_without_the_mode_or_without_a_name() -> None:
    with pytest.raises(CompileError, match=r"value-peer.*onnxruntime is compared at inference only"):
        choose(["onnxruntime"], "train")
    with pytest.raises(CompileError, match=r"value-peer.*onnxruntime computes in fp32 and int8 only"):
        choose(["onnxruntime"], "infer", precision="bf16")
    found = choose(None, "infer", precision="bf16")
    assert "onnxruntime" not in found.contestants
    assert "onnxruntime computes in fp32 and int8 only" in found.left_out
    with pytest.raises(CompileError, match="name-peer"):
        choose(["tensorflow"], "train")


def test_entries_are_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for peer in PEERS.values():
        assert isinstance(peer, Peer)
        for entry in (*peer.contestants.values(), *peer.compiled.values()):
            module, _, name = entry.partition(":")
            # Importing the file of a peer does not import the library.
            assert callable(getattr(__import__(module, fromlist=[name]), name))
