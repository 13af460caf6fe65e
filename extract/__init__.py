"""Images -> teacher -> maps: one call for each command, and the settings that they take."""

from extract.calls import export_maps, fit_head, import_maps, plan, render_submission, run, status, submit, verify
from extract.errors import ExtractError, ImagesError, TeacherError
from extract.job.slurm import SlurmOptions
from extract.settings import FitOptions, ImportOptions, JobOptions, TeacherSpec
from extract.settings.worker import Worker

__all__ = [
    "ExtractError",
    "FitOptions",
    "ImagesError",
    "ImportOptions",
    "JobOptions",
    "SlurmOptions",
    "TeacherError",
    "TeacherSpec",
    "Worker",
    "export_maps",
    "fit_head",
    "import_maps",
    "plan",
    "render_submission",
    "run",
    "status",
    "submit",
    "verify",
]
