"""Every way in which a dataset loads, for all eight EXIF orientations: the map lies over what it was made from."""

import io
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from timm.data import ImageDataset, create_dataset
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

from store import StoreMismatch
from tests.tokenmix_loader.conftest import StoreMaker
from tests.tokenmix_loader.join.datasets import users_warnings
from tokenmix_loader import MapDataset, MapJoin, MapStore
from tokenmix_loader.join.orientation import TURNS, is_upright, turned_back

# WebDataset leaves a shard open when nobody reads on.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SHAPES = {"wide": (60, 40), "square": (48, 48)}
ORIENTATION = 0x0112
KEYS = [f"{'ab'[o > 4]}/{o}.jpg" for o in range(1, 9)]
LABELS = [0, 0, 0, 0, 1, 1, 1, 1]
TURNING = (2, 3, 4, 5, 6, 7, 8)


def photograph(size: tuple[int, int]) -> Image.Image:
    """A bright square off every axis of symmetry, on a dark slope."""
    width, height = size
    pixels = np.tile(np.linspace(0, 60, width).astype(np.uint8)[None, :, None], (height, 1, 3))
    pixels[3:11, 5:17] = 255
    return Image.fromarray(pixels)


def tagged(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.fixture(scope="module", params=SHAPES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pixels eight times, each with another orientation."""
    root = tmp_path_factory.mktemp(request.param)
    for label in "ab":
        (root / label).mkdir()
    for orientation, key in enumerate(KEYS, 1):
        photograph(SHAPES[request.param]).save(root / key, exif=tagged(orientation), quality=95)
    return root


def store_of(make: StoreMaker, folder: Path, known: bool = True, keys: list[str] = KEYS) -> MapStore:
    columns: dict[str, Any] = {"size": np.tile(np.array(size_of(folder), np.int32), (8, 1))}
    orientations = np.arange(1, 9, dtype=np.uint8)
    columns["orientation"] = orientations if known else np.zeros(8, np.uint8)
    return make(dict(zip(keys, LABELS, strict=True)), other=columns)


def off_content(image: Image.Image, place: Any, stored: tuple[int, int]) -> float:
    """How far the affine puts the square's centre from where it lies in the pixels as they were decoded, in px."""
    rows, columns = np.nonzero(np.asarray(image.convert("L")) > 160)
    u, v = (columns.mean() + 0.5) / image.width, (rows.mean() + 0.5) / image.height
    x, y = np.asarray(place[:6]).reshape(2, 3) @ (u, v, 1)
    return float(max(abs(x * stored[0] - 11), abs(y * stored[1] - 7)))


def size_of(folder: Path) -> tuple[int, int]:
    return SHAPES["wide" if "wide" in folder.name else "square"]


def turned_by_opencv(path: str) -> Image.Image:
    import cv2

    return Image.fromarray(cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB))


def turned_by_hand(path: str) -> Image.Image:
    """As older code does it, which leaves the tag where it was."""
    image = Image.open(path).convert("RGB")
    method = {3: 1, 6: 4, 8: 2}.get(image.getexif()[ORIENTATION])
    methods = {1: Image.Transpose.ROTATE_180, 2: Image.Transpose.ROTATE_90, 4: Image.Transpose.ROTATE_270}
    return image if method is None else image.transpose(methods[method])


def turned_back_wrongly(path: str) -> Image.Image:
    """A quarter turn to the wrong side."""
    image = Image.open(path).convert("RGB")
    return image.transpose(Image.Transpose.ROTATE_90) if image.getexif()[ORIENTATION] == 6 else image


LOADERS: dict[str, Callable[[str], Any]] = {
    "Pillow": lambda path: Image.open(path).convert("RGB"),
    "opened only": Image.open,
    "exif_transpose": lambda path: ImageOps.exif_transpose(Image.open(path)).convert("RGB"),
    "OpenCV": turned_by_opencv,
    "by hand": turned_by_hand,
    "wrongly": turned_back_wrongly,
    "scaled and grey": lambda path: ImageOps.scale(ImageOps.exif_transpose(Image.open(path)).convert("L"), 3),
}


class Samples(list[Any]):
    """Somebody's dataset of samples that are made when they are asked for."""

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(index)()


def of_keys(load: Callable[[str], Any]) -> Callable[[Path, Path], tuple[Any, dict[str, Any]]]:
    def build(folder: Path, _: Path) -> tuple[Any, dict[str, Any]]:
        samples = Samples(lambda key=key: (load(str(folder / key)), 0) for key in KEYS)
        return samples, {"keys": KEYS, "labels": LABELS, "root": folder}

    return build


def timm_tar(folder: Path, tmp_path: Path) -> tuple[Any, dict[str, Any]]:
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for label in "ab":
            tar.add(folder / label, label)
    return ImageDataset(str(tmp_path / "images.tar")), {}


def table_of(folder: Path) -> Any:
    datasets = pytest.importorskip("datasets")
    columns = {"image": [str(folder / key) for key in KEYS], "label": LABELS}
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


WAYS: dict[str, Callable[[Path, Path], tuple[Any, dict[str, Any]]]] = {
    "ImageFolder": lambda folder, _: (ImageFolder(folder), {}),
    **{
        f"ImageFolder, {name}": lambda folder, _, load=load: (ImageFolder(folder, loader=load), {})  # type: ignore[misc]
        for name, load in LOADERS.items()
    },
    "Subset": lambda folder, _: (Subset(ImageFolder(folder, loader=LOADERS["exif_transpose"]), range(8)), {}),
    "timm folder": lambda folder, _: (ImageDataset(str(folder)), {}),
    "timm tar": timm_tar,
    "Dataset": lambda folder, _: (table_of(folder), {"keys": KEYS}),
    **{f"keys, {name}": of_keys(load) for name, load in LOADERS.items()},
}


@pytest.mark.parametrize("known", [True, False], ids=["known", "older store"])
@pytest.mark.parametrize("way", WAYS)
def test_the_map_lies_over_the_content_it_was_made_from(
    way: str, known: bool, folder: Path, tmp_path: Path, make_store: StoreMaker
) -> None:
    inner, settings = WAYS[way](folder, tmp_path)
    dataset = MapDataset(inner, store_of(make_store, folder, known), **settings)
    for index in range(8):
        image, target = dataset[index]
        assert off_content(image, target.place, size_of(folder)) < 1, f"orientation {index + 1}"
    close_tar(inner)


def close_tar(inner: Any) -> None:
    if hasattr(inner, "reader") and hasattr(inner.reader, "tar_state"):
        inner.reader.tar_state.tf.close()  # timm leaves it open


def test_hugging_face_s_table_and_timm_s_reader_of_it(
    folder: Path, tmp_path: Path, make_store: StoreMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    store = store_of(make_store, folder, keys=[key[2:] for key in KEYS])
    by_timm = create_dataset(f"hfds/{folder}", root=str(tmp_path / "cache"), split="train")
    for inner in (by_timm, table_of(folder), Subset(table_of(folder), range(8))):
        dataset = MapDataset(inner, store)
        off = [
            off_content(image, target.place, size_of(folder)) for image, target in map(dataset.__getitem__, range(8))
        ]
        assert max(off) < 1


@pytest.mark.parametrize("turn", TURNS)
def test_affine_and_bounds_are_turned_back(turn: int) -> None:
    """A crop of the turned image shows the pixels that its affine and bounds say, in the image as it was decoded."""
    numbers = np.arange(54, dtype=np.uint8).reshape(6, 9)
    decoded, method = Image.fromarray(numbers), TURNS[turn][0]
    turned = decoded if method is None else decoded.transpose(method)
    left, top, right, bottom = 1, 2, 4, 5
    width, height = turned.size
    crop = np.asarray(turned.crop((left, top, right, bottom)))
    box = np.array([left / width, top / height, right / width, bottom / height])
    place = np.array([3 / width, 0, box[0], 0, 3 / height, box[1], *box])
    back = turned_back(place, turn)
    affine = back[:6].reshape(2, 3)
    for row, column in np.ndindex(3, 3):
        x, y = affine @ ((column + 0.5) / 3, (row + 0.5) / 3, 1)
        assert numbers[int(y * 6), int(x * 9)] == crop[row, column]
    x0, y0, x1, y1 = back[6:] * (9, 6, 9, 6)
    inside = numbers[round(y0) : round(y1), round(x0) : round(x1)]
    assert sorted(inside.ravel()) == sorted(crop.ravel())


def _first(inner: Any, store: MapStore, settings: dict[str, Any]) -> Any:
    return MapDataset(inner, store, **settings)[0]


def without_files(load: Callable[[str], Any], folder: Path, chosen: int) -> tuple[Any, dict[str, Any]]:
    """One image, of a dataset whose files nobody can find."""
    return [(load(str(folder / KEYS[chosen - 1])), 0)], {"keys": [KEYS[chosen - 1]], "labels": [LABELS[chosen - 1]]}


@pytest.mark.parametrize("orientation", TURNING)
def test_without_files_a_turned_image_is_followed_or_refused(
    orientation: int, folder: Path, make_store: StoreMaker
) -> None:
    """The tag is there, or the shape tells; otherwise the join ends at once, and a stream at this image."""
    store, key = store_of(make_store, folder), KEYS[orientation - 1]
    join, shape_tells = MapJoin(store), orientation >= 5 and folder.name.startswith("wide")
    for name in ("Pillow", "exif_transpose", "OpenCV"):
        inner, settings = without_files(LOADERS[name], folder, orientation)
        sample, label = inner[0][0], LABELS[orientation - 1]
        ways = (partial(_first, inner, store, settings), partial(join, sample, label, key))
        for way in ways:
            if name == "Pillow" or shape_tells:
                image, target = way()
                assert off_content(image, target.place, size_of(folder)) < 1
            else:
                found = f"'{key}': .*EXIF orientation {orientation}, found neither the tag nor a file.*pass `root`"
                with pytest.raises(StoreMismatch, match=found):
                    way()


def test_an_image_that_was_turned_by_hand_shows_that_tags_mean_nothing(folder: Path, make_store: StoreMaker) -> None:
    """So the first image whose shape tells ends the training: others may have been turned unseen."""
    inner, settings = without_files(turned_by_hand, folder, 6)
    if folder.name.startswith("wide"):
        with pytest.raises(StoreMismatch, match="turned and still has the tag"):
            MapDataset(inner, store_of(make_store, folder), **settings)


def test_an_older_store_without_files_warns(folder: Path, make_store: StoreMaker) -> None:
    store = store_of(make_store, folder, known=False)
    inner, settings = without_files(LOADERS["Pillow"], folder, 3)
    for join in (lambda: MapDataset(inner, store, **settings), lambda: MapJoin(store)):
        with pytest.warns(UserWarning, match="expected the EXIF orientation of every image, found none for") as caught:
            join()
        assert [warning.filename for warning in users_warnings(caught)] == [__file__]
    image, target = MapDataset(inner, store, **settings, root=folder)[0]
    assert off_content(image, target.place, size_of(folder)) < 1


def test_a_stream_of_webdataset(folder: Path, tmp_path: Path, make_store: StoreMaker) -> None:
    webdataset = pytest.importorskip("webdataset")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for key in KEYS:
            label = b"%d" % "ab".index(key[0])
            for name, content in ((key, (folder / key).read_bytes()), (key.replace(".jpg", ".cls"), label)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    join = MapJoin(store_of(make_store, folder))
    samples = webdataset.WebDataset([str(tmp_path / "0.tar")], shardshuffle=False, empty_check=False).decode("pil")
    joined = [join(*sample) for sample in samples.to_tuple("jpg", "cls", "__key__")]
    assert len(joined) == 8
    assert max(off_content(image, target.place, size_of(folder)) for image, target in joined) < 1


def test_pixels_that_show_another_image_are_refused(folder: Path, make_store: StoreMaker) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size_of(folder)[::-1], 3), np.uint8))
    dataset = MapDataset(ImageFolder(folder, loader=lambda _: noise), store_of(make_store, folder))
    assert dataset[0][0] == noise  # nothing could have turned it
    with pytest.raises(StoreMismatch, match=r"'a/2.jpg': .*orientation 2, found pixels that show .* none of the eight"):
        dataset[1]


@pytest.mark.parametrize("colours", [(90, 90), (90, 200)], ids=["one colour", "halves"])
def test_symmetric_images_are_right_either_way(
    colours: tuple[int, int], tmp_path: Path, make_store: StoreMaker
) -> None:
    pixels = np.full((40, 60, 3), colours[0], np.uint8)
    pixels[:, 20:40] = colours[1]
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
    for orientation, key in enumerate(KEYS, 1):
        Image.fromarray(pixels).save(tmp_path / "images" / key, exif=tagged(orientation))
    columns = {"size": np.tile(np.array([60, 40], np.int32), (8, 1)), "orientation": np.arange(1, 9, dtype=np.uint8)}
    store = make_store(dict(zip(KEYS, LABELS, strict=True)), other=columns)
    dataset = MapDataset(ImageFolder(tmp_path / "images", loader=LOADERS["exif_transpose"]), store)
    for index in range(8):
        image, target = dataset[index]
        by_v = target.affine[:, 1] if image.width > image.height else target.affine[:, 0]
        assert abs(by_v[0]) == 0  # the stripe stands upright in the decoded image


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "avif", "mpo"])
@pytest.mark.parametrize("orientation", [None, 0, 1, 3, 6, 9])
def test_is_upright(kind: str, orientation: int | None, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    more: dict[str, Any] = {} if orientation is None else {"exif": tagged(orientation)}
    if kind == "mpo":
        more |= {"save_all": True, "append_images": [photograph((60, 40))]}
    if kind == "avif" and orientation in (0, 9):
        pytest.skip("AVIF cannot say it")
    photograph((60, 40)).save(path, **more)
    with open(path, "rb") as file:
        assert is_upright(file) == (orientation not in (3, 6))


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'


@pytest.mark.parametrize("orientation", [1, 3])
@pytest.mark.parametrize("kind", ["jpg", "png", "png, compressed", "png, ImageMagick", "webp"])
def test_orientations_elsewhere_than_in_exif_count(kind: str, orientation: int, tmp_path: Path) -> None:
    path, text = tmp_path / f"x.{kind[:4].rstrip(',')}", XMP.format(orientation)
    chunks = PngInfo()
    chunks.add_text("Software", "a camera's")
    if kind == "png, ImageMagick":
        raw = tagged(orientation).tobytes()
        chunks.add_text("Raw profile type exif", f"\nexif\n{len(raw):8}\n{raw.hex()}\n", zip=True)
    else:
        chunks.add_itxt("XML:com.adobe.xmp", text, zip="compressed" in kind)
    photograph((60, 40)).save(path, **({"pnginfo": chunks} if "png" in kind else {"xmp": text.encode()}))
    with open(path, "rb") as file:
        assert is_upright(file) == (orientation == 1)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_an_image_without_a_tag_is_hardly_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would decode the PNG, and a progressive JPEG's or any other's header costs it a tenth of a small image."""
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("opened"))
    options = PngInfo()
    options.add_text("Software", "a camera's")
    photograph((60, 40)).save(tmp_path / f"x.{kind}", pnginfo=options, icc_profile=bytes(5000))
    with open(tmp_path / f"x.{kind}", "rb") as file:
        assert is_upright(file)


def test_damaged_exif_is_decided_by_the_pixels(tmp_path: Path, make_store: StoreMaker) -> None:
    path = tmp_path / "images" / "a" / "1.jpg"
    path.parent.mkdir(parents=True)
    photograph((60, 40)).save(path, exif=b"Exif\0\0garbage")
    with open(path, "rb") as file:
        assert not is_upright(file)
    columns = {"size": np.array([[60, 40]], np.int32), "orientation": np.zeros(1, np.uint8)}
    store = make_store({"a/1.jpg": 0}, other=columns)
    for turn in (Image.Transpose.ROTATE_180, Image.Transpose.TRANSVERSE, None):
        decoded = Image.open(path).convert("RGB")
        loaded = decoded if turn is None else decoded.transpose(turn)
        dataset = MapDataset(ImageFolder(tmp_path / "images", loader=lambda _, loaded=loaded: loaded), store)
        image, target = dataset[0]
        assert image.tobytes() == loaded.tobytes()
        assert off_content(image, target.place, (60, 40)) < 1
