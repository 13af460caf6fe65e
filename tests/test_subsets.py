"""A subset of ImageNet under a teacher of all 1,000 classes: extracted, checked, joined and trained on."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.data import ImageNetInfo, create_dataset
from torch.utils.data import DataLoader
from torchvision import transforms as tv
from torchvision.datasets import ImageFolder

import extract
from extract import JobOptions, TeacherSpec
from store import MapStore, StoreMismatch
from tests.extract.conftest import MakeFolder, ramp
from tests.tokenmix_commands.conftest import TEACHER, tokenmix
from tokenmix_loader import MapDataset, TokenMix, TokenTargets

WORDNET = {"n02123045": 281, "n01440764": 0, "n07930864": 968}  # tabby, tench, cup
WORDS = {"tabby cat": 281, "Tench": 0, "cup": 968}
OWN = {"my cats": 281, "fishes": 0, "mugs": 968}
TRANSFORM = tv.Compose([tv.RandomResizedCrop(64), tv.RandomHorizontalFlip(), tv.ToTensor()])


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    def make(names: dict[str, int]) -> Path:
        for name in names:
            (tmp_path / "images" / name).mkdir(parents=True)
            for i in range(4):
                ramp(70, 50).rotate(30 * i).save(tmp_path / "images" / name / f"{i}.jpg")
        return tmp_path / "images"

    return make


@pytest.mark.parametrize("names", [WORDNET, WORDS, OWN], ids=["by WordNet id", "by name", "by map"])
@pytest.mark.parametrize("kind", ["label", "topk"])
def test_end_to_end(names: dict[str, int], kind: str, make_folder: MakeFolder, tmp_path: Path) -> None:
    images, maps = make_folder(names), tmp_path / "maps"
    given = []
    if names is OWN:
        (tmp_path / "map.csv").write_text("".join(f"{name},{output}\n" for name, output in OWN.items()))
        given = ["--class-map", tmp_path / "map.csv"]
    done = tokenmix("extract", images, maps, *TEACHER, "--kind", kind, *given)
    assert done.exit_code == 0, done.output
    folder = ImageFolder(str(images))
    store = MapStore(maps)
    assert store.header.teacher_class.tolist() == [names[name] for name in sorted(names, key=str.lower)]
    assert tokenmix("verify", maps, "--images", images).exit_code == 0
    assert tokenmix("show", maps, "--images", images, "-o", tmp_path / "out.png", "--pairs", 1).exit_code == 0
    if names is not WORDS:  # where capitals matter, torchvision sorts in another way than timm
        assert store.labels.tolist() == folder.targets
        train(MapDataset(folder, maps, TRANSFORM), maps, kind)
    train(MapDataset(create_dataset("", str(images)), maps, TRANSFORM), maps, kind)


def train(dataset: MapDataset, maps: Path, kind: str) -> None:
    """One step with the dataset's three classes, for each supervision that the kind has."""
    student = timm.create_model("test_vit", num_classes=3, img_size=64)
    images, targets = next(iter(DataLoader(dataset, batch_size=12)))
    for supervision in ("tokenmix", *(("relabel", "tokenlabeling") if kind == "topk" else ())):
        mix = TokenMix(
            maps, 3, (4, 4), rng=np.random.default_rng(0), supervision=supervision, min_tokens=2, mixup_alpha=0
        )
        mixed, dense = mix(images, targets)
        label = dense.label if isinstance(dense, TokenTargets) else dense
        assert label.shape == (12, 3)
        assert torch.isfinite(label).all()
        loss = -(label * student(mixed).log_softmax(1)).sum(1).mean()
        loss.backward()
    if kind == "topk":
        assert dense.dense().sum(2).allclose(torch.ones(()))  # nothing of the other 997 classes is left


@pytest.mark.parametrize("kind", ["label", "topk", "features"])
def test_maps_are_those_of_the_class_shown(kind: str, make_folder: MakeFolder, tmp_path: Path) -> None:
    """The logit of output 281 for the cats, by the model's own forward pass."""
    images = make_folder(WORDNET)
    spec = TeacherSpec(
        "test_resnet", random_weights=0, input_size=(64, 64), kind=kind, top_k=1000 if kind == "topk" else None
    )
    extract.run(images, tmp_path / "maps", spec, JobOptions(dtype="float32", decoding_processes=0))
    store = MapStore(tmp_path / "maps")
    from extract.images import list_images
    from extract.job.decoding import Decoder
    from extract.teacher.timm_teacher import TimmTeacher  # its model and its input are what the test needs

    teacher, decoder = TimmTeacher(spec), Decoder(list_images(images), TimmTeacher(spec).preprocessing)
    pixels = decoder.collate([decoder[row] for row in range(12)]).pixels
    with torch.no_grad():
        logits = teacher.model(teacher.normalise(pixels)).numpy()
    wanted = np.array(sorted(WORDNET.items()))[:, 1].astype(int).repeat(4)
    np.testing.assert_allclose(store.read(range(12)).mean((1, 2)), logits[np.arange(12), wanted], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(store.predictions, logits.argmax(1))


def test_another_class_map_does_not_resume(make_folder: MakeFolder, tmp_path: Path) -> None:
    images = make_folder(WORDNET)
    run = ["extract", images, tmp_path / "maps", *TEACHER]
    assert tokenmix(*run).exit_code == 0
    (tmp_path / "map.csv").write_text("n02123045,282\nn01440764,0\nn07930864,968\n")
    refused = tokenmix(*run, "--class-map", tmp_path / "map.csv")
    assert refused.exit_code == 1
    assert "dataset.teacher_class: stored [0, 281, 968], given [0, 282, 968]" in refused.output


def test_running_top_1_compares_outputs_with_outputs(make_folder: MakeFolder, tmp_path: Path) -> None:
    images = make_folder(WORDNET)
    spec = TeacherSpec("test_resnet", random_weights=0, input_size=(64, 64))
    report = extract.run(images, tmp_path / "a", spec, JobOptions(decoding_processes=0))
    store = MapStore(tmp_path / "a")
    assert report.progress.top1 == np.mean(store.predictions == store.header.teacher_class[store.labels])
    guessed = [int(np.bincount(store.predictions[store.labels == k]).argmax()) for k in range(3)]
    (tmp_path / "map.csv").write_text("".join(f"{n},{o}\n" for n, o in zip(sorted(WORDNET), guessed, strict=True)))
    again = extract.run(images, tmp_path / "b", spec, JobOptions(decoding_processes=0), class_map=tmp_path / "map.csv")
    assert again.progress.top1 > 0.5


def test_a_dataset_with_a_class_map_of_its_own_is_told_so(make_folder: MakeFolder, tmp_path: Path) -> None:
    images = make_folder(WORDNET)
    assert tokenmix("extract", images, tmp_path / "maps", *TEACHER).exit_code == 0
    (tmp_path / "all.txt").write_text("\n".join(ImageNetInfo().label_names()))
    with pytest.raises(StoreMismatch, match="class map"):
        MapDataset(create_dataset("", str(images), class_map=str(tmp_path / "all.txt")), tmp_path / "maps", TRANSFORM)
