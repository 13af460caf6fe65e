"""One call for each command: what `tokenmix` runs, for Python. Each returns a value and prints nothing.

`say` gets lines for a person as they come up. Heavy imports wait inside, so that `tokenmix --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from extract.errors import ExtractError
from extract.job.processes.signals import stoppable
from extract.job.slurm import SlurmOptions, log_folder, max_array_size, render_arrays, submit_arrays
from extract.settings import FitOptions, ImportOptions, JobOptions, TeacherSpec

if TYPE_CHECKING:
    from extract.audit.verdict import Verdict
    from extract.images.classes import TeacherClasses
    from extract.images.image_list import ImageList
    from extract.job.plan import Plan
    from extract.job.progress import Progress, Report
    from extract.job.status import Status
    from extract.teacher.heads import LinearHead
    from extract.teacher.protocol import Teacher

StrPath = str | Path


def _silent(_: object) -> None:
    """The default of `say`."""


def _go_on() -> bool:
    return False


def plan(
    images: StrPath,
    teacher: TeacherSpec,
    options: JobOptions = JobOptions(),  # noqa: B008 -- frozen
    *,
    class_map: StrPath | None = None,
    say: Callable[[str], None] = _silent,
) -> Plan:
    """What a job would write and how long it would take, measured on some of the images; writes nothing.

    Raises ImagesError and TeacherError as `run`.
    """
    from extract.job.plan import make_plan

    return make_plan(*_prepare(images, teacher, options, class_map, say), options)


def run(
    images: StrPath,
    store: StrPath,
    teacher: TeacherSpec,
    options: JobOptions = JobOptions(),  # noqa: B008 -- frozen
    *,
    class_map: StrPath | None = None,
    on_progress: Callable[[Progress], None] = _silent,
    stop: Callable[[], bool] = _go_on,
    say: Callable[[str], None] = _silent,
) -> Report:
    """Run the teacher over the images and fill this worker's share of the store; called again, it goes on.

    `images`: class folder, `.tar`, `hfds/NAME` or `wds/FOLDER`; a store that is there says by which columns or suffixes
    they are listed, unless `options` do. `class_map`: which output of the teacher shows each
    class, see `extract.images.classes`. `on_progress` is called after every batch; `stop` is asked before every batch.

    `say` also gets a warning where the teacher's predictions are hardly better than a guess, or suddenly become so.

    Raises ImagesError, TeacherError (both ExtractErrors; the latter also for a top-1 below `options.min_top1`),
    StoreMismatch where the store was made with other settings, StoreError where it cannot be written. Finished shards
    survive every one of these.
    """
    from extract.audit.top1 import Top1Watch
    from extract.images.listing import refuse_store_inside
    from extract.job.run import run_job

    refuse_store_inside(Path(store), Path(images))
    with stoppable(lambda: f"listing {images} and building the teacher"):
        listed, built, classes = _prepare(images, teacher, options, class_map, say, store)
    _refuse_unjudged(options, classes)
    watch = Top1Watch(Path(store), options.min_top1, say)
    observe = _both(on_progress, watch)
    report = run_job(listed, Path(store), built, options, classes.outputs, on_progress=observe, stop=stop, say=say)
    watch.finish(report)
    return report


def fit_head(
    images: StrPath,
    output: StrPath,
    teacher: TeacherSpec,
    options: FitOptions = FitOptions(),  # noqa: B008 -- frozen
    *,
    on_progress: Callable[[Progress], None] = _silent,
    stop: Callable[[], bool] = _go_on,
    say: Callable[[str], None] = _silent,
) -> LinearHead | None:
    """Fit a linear head for the dataset's own classes, write it to a file for `TeacherSpec.head`, and return it.

    `teacher`: name, weights and input; what it says of maps is ignored. Features lie in an unnamed file beside `output`
    meanwhile, 4 C bytes per image. `stop` is asked often; None is returned, and nothing written, where it says so.

    Raises ImagesError, as `run`, and for less than two classes; TeacherError; ExtractError without a folder for
    `output`.
    """
    from extract.images.listing import list_images
    from extract.own_classes.fit import fit_head_file

    with stoppable(lambda: f"listing {images}"):
        listed = list_images(images, input_key=options.input_key, target_key=options.target_key, say=say)
    return fit_head_file(listed, Path(output), teacher, options, on_progress=on_progress, stop=stop, say=say)


def submit(
    images: StrPath,
    store: StrPath,
    teacher: TeacherSpec,
    options: JobOptions = JobOptions(),  # noqa: B008 -- frozen
    *,
    slurm: SlurmOptions,
    class_map: StrPath | None = None,
    say: Callable[[str], None] = _silent,
) -> list[str]:
    """Run `extract` as a Slurm array and return the arrays' job ids; raises as `render_submission`."""
    scripts = render_submission(images, store, teacher, options, slurm=slurm, class_map=class_map, say=say)
    return submit_arrays(scripts, log_folder(slurm, Path(store)))


def render_submission(
    images: StrPath,
    store: StrPath,
    teacher: TeacherSpec,
    options: JobOptions = JobOptions(),  # noqa: B008 -- frozen
    *,
    slurm: SlurmOptions,
    class_map: StrPath | None = None,
    say: Callable[[str], None] = _silent,
) -> list[str]:
    """The scripts that `submit` gives to sbatch, after checking that the job would start.

    So what `run` would refuse is refused in front of the user, and not in a log file hours later. Raises what `run`
    raises at its start, and ExtractError for more tasks than shards that are missing.
    """
    from dataclasses import replace

    from extract.job.plan import missing_shards
    from extract.settings.arguments import job_arguments

    prepared = _prepare(images, replace(teacher, device="cpu"), options, class_map, say, store)
    _refuse_unjudged(options, prepared[2])
    missing = missing_shards(*prepared, Path(store), options)
    say(f"{missing} shards to do, {slurm.tasks} workers")
    if slurm.tasks > missing:
        raise ExtractError(
            f"--tasks {slurm.tasks}: expected at most one worker per shard that is missing, found {missing} of those; "
            "give fewer tasks, or a new store with a smaller --shard-size"
        )
    map_path = None if class_map is None else Path(class_map)
    arguments = job_arguments(Path(images), Path(store), teacher, options, map_path)
    return render_arrays(slurm, Path(store), arguments, max_array_size())


def status(store: StrPath, *, unreadable: bool = False) -> Status:
    """How far a store is and who is at work, decided by the files in its folder; `unreadable`: also name the images.

    Raises StoreError where there is no store.
    """
    from extract.job.status import read_status

    return read_status(Path(store), unreadable=unreadable)


def verify(
    store: StrPath,
    *,
    images: StrPath | None = None,
    repair: bool = False,
    retry_unreadable: bool = False,
    sample: int | None = None,
    deep: int | None = None,
    seed: int = 0,
    checkpoint: StrPath | None = None,
    head: StrPath | None = None,
    device: str | None = None,
    on_compared: Callable[[int], object] = _silent,
) -> Verdict:
    """Check every byte of a store and, where they are given, its images and its teacher.

    `images`: also that they are still those of the store: names, labels, and by their fingerprints the files, all or
    `sample` of them, evenly spread; `on_compared` is told how many more were compared. `repair`: remove what is
    damaged, so that `run` fills it again. `retry_unreadable`: also remove shards of images that can be read now.
    `deep`: run the teacher, built again from the header, `checkpoint` and `head`, on so many rows drawn by `seed`.
    Raises StoreError where there is no readable header, ValueError for what needs images, without them.
    """
    from extract.audit.verdict import verify_all
    from store import local_store

    return verify_all(
        local_store(store),
        images=images,
        repair=repair,
        retry_unreadable=retry_unreadable,
        sample=sample,
        deep=deep,
        seed=seed,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        head=None if head is None else Path(head),
        device=device,
        on_compared=on_compared,
    )


def import_maps(
    form: str,
    tree: StrPath,
    images: StrPath,
    store: StrPath,
    options: ImportOptions = ImportOptions(),  # noqa: B008 -- frozen
    *,
    class_map: StrPath | None = None,
    on_progress: Callable[[Progress], None] = _silent,
    stop: Callable[[], bool] = _go_on,
    say: Callable[[str], None] = _silent,
) -> Report:
    """Put published maps, one `.pt` per image below `tree`, into a store of kind topk; called again, it goes on.

    `form`: tokenlabeling or relabel. Their teachers have ImageNet-1k's outputs where the dataset's classes go by its
    names or by `class_map`, else as many as the dataset has classes. Raises as `run`.
    """
    from extract.audit.top1 import Top1Watch
    from extract.images.listing import list_images, refuse_store_inside
    from extract.published.importing import FORMATS, import_tree

    if form not in FORMATS:
        raise ExtractError(f"import: expected one of the formats {', '.join(FORMATS)}, found {form!r}")
    refuse_store_inside(Path(store), Path(images))
    with stoppable(lambda: f"listing {images}"):
        listed = list_images(images, input_key=options.input_key, target_key=options.target_key, store=store, say=say)
    classes, outputs = _published_classes(listed, class_map)
    say(f"{len(listed)} images, {len(listed.class_names)} classes; their outputs {classes.how}")
    watch = Top1Watch(Path(store), None, say)
    observe = _both(on_progress, watch)
    report = import_tree(
        form,
        Path(tree),
        listed,
        Path(store),
        options,
        classes.outputs,
        outputs,
        on_progress=observe,
        stop=stop,
        say=say,
    )
    watch.finish(report)
    return report


def export_maps(form: str, store: StrPath, target: StrPath, *, on_progress: Callable[[int], None] = _silent) -> int:
    """Write the maps of a store of kind topk as a tree of one `.pt` per image, and return their number.

    `form`: tokenlabeling. Raises StoreError for another kind, and for files of another content that are in the way.
    """
    from extract.published.exporting import export_tree

    if form != "tokenlabeling":
        raise ExtractError(f"export: expected the format tokenlabeling, found {form!r}")
    return export_tree(Path(store), Path(target), on_progress=on_progress)


def _both(first: Callable[[Progress], None], second: Callable[[Progress], None]) -> Callable[[Progress], None]:
    def call(progress: Progress) -> None:
        first(progress)
        second(progress)

    return call


def _refuse_unjudged(options: JobOptions, classes: TeacherClasses) -> None:
    if options.min_top1 is not None and not classes.outputs:
        raise ExtractError(
            "--min-top1: expected a teacher whose predictions can be judged, found its outputs for the dataset's "
            f"classes {classes.how}; leave it out, or give a --class-map"
        )


def _prepare(
    images: StrPath,
    spec: TeacherSpec,
    options: JobOptions,
    class_map: StrPath | None,
    say: Callable[[str], None],
    store: StrPath | None = None,
) -> tuple[ImageList, Teacher, TeacherClasses]:
    """The images, the teacher, loaded and checked, and which of its outputs shows which class."""
    from extract.images.classes import match_classes
    from extract.images.listing import list_images
    from extract.teacher.presets import make_teacher
    from store.spec import CLASS_AGNOSTIC_KINDS

    for given, expected in ((spec, TeacherSpec), (options, JobOptions)):
        if not isinstance(given, expected):
            raise TypeError(f"expected extract.{expected.__name__}(...), found {given!r}")
    listed = list_images(images, input_key=options.input_key, target_key=options.target_key, store=store, say=say)
    say(f"{len(listed)} images, {len(listed.class_names)} classes")
    teacher = make_teacher(spec)
    classes = match_classes(
        listed.class_names,
        teacher.num_classes,
        None if class_map is None else Path(class_map),
        output_names=teacher.class_names,
        needed=spec.kind not in CLASS_AGNOSTIC_KINDS,
    )
    say(f"{spec.name} on {teacher.device}, grid {teacher.grid[0]} x {teacher.grid[1]}")
    say(f"its outputs for the classes: {classes.how}")
    return listed, teacher, classes


def _published_classes(images: ImageList, class_map: StrPath | None) -> tuple[TeacherClasses, int]:
    """Which outputs the published teachers have for the dataset's classes, and how many they have."""
    from extract.images.classes import IMAGENET_1K_CLASSES, match_classes

    names, path = images.class_names, None if class_map is None else Path(class_map)
    classes = match_classes(names, IMAGENET_1K_CLASSES, path, needed=False)
    if classes.outputs:
        return classes, IMAGENET_1K_CLASSES
    return match_classes(names, len(names)), len(names)
