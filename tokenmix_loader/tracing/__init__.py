"""A training transform, followed: which part of the source image does each pixel of the result show?

1. `trace.trace` flattens the user's Compose into steps and looks each one's exact type up in `RECORDERS`, which maps a
   type to the function that makes a recording version of a step; a type that stands nowhere is refused by name.
2. A recording step is the user's own object, under a subclass in which one method also calls `recorder.record` with the
   geometry that was just drawn (`recorder.with_replaced`), or inside a function that records what the step did. So
   draws, pixels and random streams stay the same.
   Albumentations' transforms record in the tables in which they look up what to do with an image.
3. Policies move pixels deep inside: there the image records what Pillow is asked to do (`pillow.apply_recorded`).
4. `recorder.run` calls the steps and composes their records, affine maps of unit squares (`affine`), into one.
5. Before it is used, `self_test` runs a copy on images whose places can be told apart (`pattern`) and refuses what
   takes its pixels from elsewhere than it records; `shades` measures from where, for the message.

A new transform is an entry in `RECORDERS` of `crops_and_flips`, `policies` or `torchvision_v2`; one that moves no
pixels, in `PIXEL_ONLY` of `trace` or `torchvision_v2`; one of Albumentations, by name, in `albumentation.GEOMETRY_OF`.
"""
