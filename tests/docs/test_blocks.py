"""Every code block of the documentation runs in a test; what does not is listed with the reason, and can be given."""

from __future__ import annotations

import re
import tarfile
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image
from timm.data import create_transform
from torchvision import transforms as tv
from torchvision.datasets import ImageFolder

from cli import main
from extract.job import plan as making_plans
from tests.docs.blocks import ALL, INDENTED, PAGES, ROOT, SHELL, Block
from tests.docs.commands import commands_in_text, fault_of, unknown_in
from tests.docs.listed import ELSEWHERE, NOT_RUN
from tokenmix_loader import MapDataset, MapStore, MapTarget, TokenMix, TokenMixCollate, TokenTargets

CODE = {block.name: block for block in ALL if block.language in ("python", "diff", *SHELL) or block.commands}
PYTHON = {name: block for name, block in CODE.items() if block.language == "python"}


def test_every_block_is_run_or_listed_with_a_reason() -> None:
    """One that fails here is new: run it below, or say in listed.py which test does, or why none can."""
    assert len(CODE) == sum(block.language in ("python", "diff", *SHELL) or bool(block.commands) for block in ALL)
    accounted = [*chain(*ELSEWHERE.values(), *NOT_RUN.values()), *RUN_HERE]
    assert sorted(set(CODE) - set(accounted)) == []
    assert sorted(set(accounted) - set(CODE)) == []
    assert len(accounted) == len(set(accounted))


def test_the_tests_that_run_blocks_read_their_pages() -> None:
    for test, names in ELSEWHERE.items():
        for page in {name.partition(":")[0].removeprefix("docs/") for name in names}:
            assert page == "README.md" or page in (ROOT / test).read_text(), (page, test)
    for reason in NOT_RUN:
        assert all((ROOT / path).exists() for path in re.findall(r"tests/[\w/.]*\w", reason)), reason


@pytest.mark.parametrize("name", [name for name, block in CODE.items() if block.language in (*SHELL, INDENTED)])
def test_commands_can_be_given(name: str) -> None:
    assert [fault for fault in map(fault_of, CODE[name].commands) if fault] == []


def test_commands_in_the_text_are_known() -> None:
    said = [words for page in PAGES if page.name != "CHANGELOG.md" for words in commands_in_text(page)]
    assert len(said) > 40
    assert [(words, unknown_in(words)) for words in said if unknown_in(words)] == []


def test_what_cannot_be_given_is_noticed() -> None:
    for line in ("tokenmix extract IMAGES MAPS --teacher t --kindd cam", "tokenmix extract IMAGES", "make nothing",
                 "tokenmix extract A B --teacher t --kind cams", "pip install '.[slow]'", "python -m recipes.nothing",
                 "python -m benchmarks.read --nothing", "python -m recipes.train.train A B --lr fast"):  # fmt: skip
        (command,) = Block("page", "console", line).commands
        assert fault_of(command), line
    assert unknown_in(["tokenmix", "verify", "--deeep"])


def test_python_compiles() -> None:
    for name, block in PYTHON.items():
        compile(block.text, name, "exec")


def small(text: str) -> str:
    """A command or call with a teacher that needs neither a hub nor time."""
    text = re.sub(r'"resnet\w+(\.\w+)?", pretrained=True',
                  '"test_resnet", random_weights=0, num_classes=10, input_size=(64, 64)', text)  # fmt: skip
    text = text.replace("JobOptions(batch_size=64)", "JobOptions(batch_size=64, decoding_processes=0)")
    quick = "--random-weights 0 --num-classes 10 --input-size 64 --workers 0 --device cpu --batch-size 8"
    return re.sub(r"--teacher resnet\S+ +--pretrained", f"--teacher test_resnet {quick}", text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the paths of the pages mean something: small images of ten classes."""
    root = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)
    for number in range(20):
        path = root / "imagenet" / "train" / str(number % 10) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (70 + number, 90, 3), np.uint8)).save(path)
    (root / "IMAGES").symlink_to(root / "imagenet" / "train")
    return root


@pytest.fixture
def maps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a block; MAPS is a store of kind topk, of which labels have maps too."""
    monkeypatch.chdir(folder)
    if not Path("MAPS").exists():
        run(CODE["docs/loops.md: tokenmix extract IMAGES MAPS --teacher resnet101 -"].text)
    return folder


def run(line: str) -> str:
    """A command of ours, made small."""
    (words,) = Block("page", "console", small(line)).commands
    done = CliRunner().invoke(main, words[1:], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def run_python(name: str, **names: Any) -> dict[str, Any]:
    """Run a block and return its names."""
    exec(compile(small(PYTHON[name].text), name, "exec"), names)
    return names


def loader_of(maps: Path, collate: TokenMixCollate) -> Any:
    dataset = MapDataset(ImageFolder("IMAGES"), MapStore("MAPS"), tv.Compose([tv.Resize((224, 224)), tv.PILToTensor()]))
    return torch.utils.data.DataLoader(dataset, 4, collate_fn=collate)


MIXUP = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "num_classes": 10}  # what timm's train.py makes of its options


def test_the_job(maps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making_plans, "_decode_rate", lambda *_: 100.0)  # measured for two seconds
    name = "docs/extract.md: tokenmix plan imagenet/train --teacher resnet101.a"
    plan, extract, info, verify = map(run, CODE[name].text.splitlines())
    assert "shards    1 of" in plan
    assert "20 images in" in extract
    assert "test_resnet" in info
    assert "0 problems" in verify
    run(CODE["docs/extract.md: tokenmix verify STORE --images IMAGES --retry-unre"].text.replace("STORE", "maps"))
    assert run_python("docs/extract.md: import extract")["report"].complete
    drawn = run(CODE["docs/gallery.md: tokenmix show MAPS --images IMAGES -o targets.png"].text.replace("MAPS", "maps"))
    assert "targets.png" in drawn
    assert "report.html: 0." in run(CODE["docs/report.md: tokenmix report maps --images imagenet/train -o re"].text)


def test_a_head_of_one_s_own(maps: Path) -> None:
    name = "docs/own-data.md: tokenmix fit-head IMAGES -o head.safetensors --tea"
    fit, extract = CODE[name].text.replace(" maps ", " own-maps ").splitlines()
    assert "10 classes" in run(fit)
    assert "20 images in" in run(extract)


def test_datasets(maps: Path) -> None:
    class Hub:
        """In the place of the package `datasets`, whose own tables tests/tokenmix_loader/join has."""

        @staticmethod
        def load_dataset(*_: str, **__: str) -> ImageFolder:
            return ImageFolder("IMAGES")

    (maps / "images").symlink_to(maps / "IMAGES")
    inner = ImageFolder("IMAGES")
    keys = [Path(path).relative_to("IMAGES").as_posix() for path, _ in inner.samples]
    pairs = [inner[i] for i in range(len(inner))]
    given = {"store": MapStore("MAPS"), "transform": create_transform(64, is_training=True), "MapDataset": MapDataset}
    name = 'docs/loops.md: hub = datasets.load_dataset("NAME", split="train")'
    found = run_python(name, datasets=Hub, pairs=pairs, keys=keys, labels=inner.targets, **given)
    assert isinstance(found["dataset"][0][1], MapTarget)


def test_token_labels(maps: Path) -> None:
    model = timm.create_model("test_vit", num_classes=10, img_size=224)
    names: dict[str, Any] = {"mixup_args": MIXUP, "model": model}
    text = PYTHON["docs/loops.md: from tokenmix_loader import TokenLabelLoss, TokenM"].text
    before, loop, after = text.partition("for pixels")
    exec(before, names)
    batches = ((pixels / 255, targets) for pixels, targets in loader_of(maps, names["collate_fn"]))
    names["loader"] = [next(batches)]
    exec(loop + after, names)
    assert torch.isfinite(names["loss"])
    assert isinstance(names["targets"], TokenTargets)


def test_optimal_masks(maps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "docs/masks.md: from tokenmix_loader import CoMixSettings, PuzzleS"
    lines = PYTHON[name].text.splitlines()
    for kind in ("puzzle", "comix"):
        chosen = "\n".join(line for line in lines if "import" in line or f'kind="{kind}"' in line)
        names: dict[str, Any] = {"mixup_args": MIXUP}
        exec(chosen, names)
        assert names["collate_fn"].kind == kind
        pixels, targets = next(iter(loader_of(maps, names["collate_fn"])))
        assert pixels.shape == (4, 3, 224, 224)
        assert targets.shape == (4, 10)


def test_a_saliency_of_one_s_own(maps: Path) -> None:
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(14), torch.nn.Flatten(), torch.nn.Linear(3 * 14 * 14, 10))
    name = "docs/masks.md: def saliency(images):  # as they are given to Toke"
    text = PYTHON[name].text.replace("1000", "10")
    names: dict[str, Any] = {"torch": torch, "model": model, "TokenMix": TokenMix, "rng": np.random.default_rng(0)}
    exec(text, names)
    dataset = MapDataset(ImageFolder("IMAGES"), MapStore("MAPS"), tv.Compose([tv.Resize((224, 224)), tv.ToTensor()]))
    for images, targets in torch.utils.data.DataLoader(dataset, 4):
        mixed, dense = names["mix"](images, targets)
    assert mixed.shape == images.shape
    assert dense.shape == (4, 10)


@pytest.mark.filterwarnings(
    "ignore:.*stream.tar:pytest.PytestUnraisableExceptionWarning"
)  # which webdataset leaves open
def test_a_stream(maps: Path) -> None:
    wds = pytest.importorskip("webdataset")
    with tarfile.open("stream.tar", "w") as shard:
        for path in sorted(Path("imagenet/train").glob("*/*.jpg"))[:6]:
            label = Path(path.stem + ".cls")
            label.write_text(path.parent.name)
            shard.add(path, f"{path.parent.name}/{path.name}")
            shard.add(label, f"{path.parent.name}/{label.name}")
    found = run_python("docs/timm.md: from tokenmix_loader import MapJoin", wds=wds, urls="stream.tar",
                       create_transform=create_transform)  # fmt: skip
    samples = list(found["dataset"])
    assert len(samples) == 6
    assert all(isinstance(target, MapTarget) for _, target in samples)


RUN_HERE = [
    "docs/extract.md: import extract",
    "docs/extract.md: tokenmix plan imagenet/train --teacher resnet101.a",
    "docs/extract.md: tokenmix verify STORE --images IMAGES --retry-unre",
    "docs/gallery.md: tokenmix show MAPS --images IMAGES -o targets.png",
    'docs/loops.md: hub = datasets.load_dataset("NAME", split="train")',
    "docs/loops.md: from tokenmix_loader import TokenLabelLoss, TokenM",
    "docs/loops.md: tokenmix extract IMAGES MAPS --teacher resnet101 -",
    "docs/masks.md: from tokenmix_loader import CoMixSettings, PuzzleS",
    "docs/masks.md: def saliency(images):  # as they are given to Toke",
    "docs/own-data.md: tokenmix fit-head IMAGES -o head.safetensors --tea",
    "docs/report.md: tokenmix report maps --images imagenet/train -o re",
    "docs/timm.md: from tokenmix_loader import MapJoin",
]
